"""Class centres that learn in the backward, split over processes."""

import os

import pytest
from gloo import outcome, run_cases
from triton_cases import CASES


@pytest.mark.skipif("EMULATED" in os.environ, reason="one process has the emulated GPU")
def test_two_processes(tmp_path):
    reports = run_cases("triton_cases", 2, tmp_path)
    problems = [outcome(reports, case) for case in CASES]
    assert not any(problems), "\n".join(problems)
