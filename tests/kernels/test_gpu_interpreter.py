"""Runs tests/kernels/gpu_interpreted where Triton interprets kernels, and on an emulated GPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent / "gpu_interpreted"
NOT_EMULATED = {
    "test_learning_on_ranks",
    "test_quick_interpreter",
}  # several processes; no interpreter
EMULATED = [file for file in sorted(TESTS.glob("test_*.py")) if file.stem not in NOT_EMULATED]


@pytest.mark.slow
def test_in_the_interpreter():
    triton = pytest.importorskip("triton", reason="Triton is there only on Linux")
    if triton.__version__.startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip(
            "the interpreter of Triton 3.6 turns arrays into numbers as NumPy 2.4 no longer does"
        )
    run_apart(TESTS, TRITON_INTERPRET="1")


@pytest.mark.exhaustive
@pytest.mark.parametrize("capability", ["80", "90"])
@pytest.mark.parametrize("file", EMULATED, ids=lambda file: file.stem)
def test_on_the_emulated_gpu(file, capability):
    pytest.importorskip("triton", reason="Triton is there only on Linux")
    run_apart(file, EMULATED=capability)


def run_apart(tests, **variables):
    """In a process of its own, with these environment variables."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tests)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
