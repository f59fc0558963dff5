"""A run that is killed and resumed is the run that was never killed; a signal is a clean stop."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_run import tiny_recipe, write_faces

from fusedface.recipes.configuration.settings import to_toml
from fusedface.recipes.run import run_recipe

pytestmark = pytest.mark.usefixtures("short_networks")

HERE = Path(__file__).parent
QUIET = Console(quiet=True)
needs_posix = pytest.mark.skipif(os.name == "nt", reason="os.fork and SIGKILL are POSIX")


@pytest.fixture(scope="module")
def finished(faces):
    out = faces / "finished"
    return out, run_recipe(tiny_recipe(faces), out, device="cpu", console=QUIET)


def python(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=environment, **options)


@needs_posix
@pytest.mark.slow
def test_sigkill_at_any_moment_changes_nothing(tmp_path):
    """Weights, optimiser, generators and metrics, bitwise, on the CPU."""
    folder = write_faces(tmp_path)
    process = python(HERE / "killed_runs.py", folder, 3, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    results = json.loads(output.splitlines()[-1])
    assert len(results) >= 10
    assert results == dict.fromkeys(results, "same")


@needs_posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(number, faces, finished, tmp_path):
    out = tmp_path / "run"
    recipe = tiny_recipe(faces)
    slow = replace(recipe, schedule=replace(recipe.schedule, epochs=2000.0))
    (tmp_path / "slow.toml").write_text(to_toml(slow), encoding="utf-8")
    code = (
        "import sys; from fusedface.recipes.run import run_recipe;"
        "from fusedface.recipes.registry import get_recipe;"
        "print(run_recipe(get_recipe(sys.argv[1]), sys.argv[2], device='cpu').verdict)"
    )
    process = python("-c", code, tmp_path / "slow.toml", out, stdout=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and '"train"' in metrics.read_text(encoding="utf-8")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.splitlines()[-1] == "interrupted"
    assert f"{out / 'recipe.toml'} --out {out} --resume" in output
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["verdict"] == "interrupted"
    newest = max((out / "checkpoints").glob("step-*.pt"))
    assert torch.load(newest, weights_only=True)["step"] == summary["steps"] > 0


def test_a_run_is_not_overwritten(faces, finished):
    out, _ = finished
    with pytest.raises(ValueError, match=r"is not empty; add --resume"):
        run_recipe(tiny_recipe(faces), out, console=QUIET)


def test_a_folder_that_is_no_run_is_left_alone(faces, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds no run"):
        run_recipe(tiny_recipe(faces), tmp_path, resume=True, console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_recipe_does_not_go_on_with_a_run(faces, finished):
    out, _ = finished
    recipe = tiny_recipe(faces)
    other = replace(recipe, optim=replace(recipe.optim, lr=0.5))
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.5 instead of 0\.05"):
        run_recipe(other, out, resume=True, console=QUIET)


def test_resuming_a_finished_run_reports_it(faces, finished):
    out, summary = finished
    before = (out / "metrics.jsonl").read_bytes()
    assert run_recipe(tiny_recipe(faces), out, resume=True, console=QUIET) == summary
    assert (out / "metrics.jsonl").read_bytes() == before
