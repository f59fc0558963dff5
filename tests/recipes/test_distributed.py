"""A run of several processes is the run of one; what ends one of them ends all."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from cli_calls import mistake
from distributed_cases import RUNS
from distributed_parts import OF_TWO
from gloo import outcome, run_cases
from rich.console import Console
from tiny_run import tiny_recipe, write_faces
from typer.testing import CliRunner

from fusedface import cli
from fusedface.recipes.configuration.settings import to_toml
from fusedface.recipes.host import watch
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.host.torchrun import own_device
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training.agreement import check_same_precision

ROOT = Path(__file__).parents[2]


def reports(tmp_path_factory, num_ranks, module, cases):
    folder = tmp_path_factory.mktemp(f"processes{num_ranks}")
    return run_cases(module, num_ranks, folder, cases)


@pytest.fixture(scope="module")
def reports_of_four(tmp_path_factory):
    return reports(tmp_path_factory, 4, "distributed_cases", "RUNS")


@pytest.fixture(scope="module")
def reports_of_two(tmp_path_factory):
    return reports(tmp_path_factory, 2, "distributed_parts", "OF_TWO")


@pytest.mark.parametrize("case", RUNS)
def test_four_processes(reports_of_four, case):
    problem = outcome(reports_of_four, case)
    assert not problem, problem


@pytest.mark.parametrize("case", OF_TWO)
def test_two_processes(reports_of_two, case):
    problem = outcome(reports_of_two, case)
    assert not problem, problem


def torchrun(*arguments, program="cli.py"):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", program]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def process_of(rank, parent):
    """The number of the process that torchrun has given a rank."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise LookupError(rank)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_killed_process_is_named_and_ends_the_others(tmp_path):
    recipe = tiny_recipe(write_faces(tmp_path))
    slow = replace(recipe, schedule=replace(recipe.schedule, epochs=2000.0))
    (tmp_path / "slow.toml").write_text(to_toml(slow), encoding="utf-8")
    out = tmp_path / "run"
    process = torchrun("recipe", "run", tmp_path / "slow.toml", "--out", out, "--device", "cpu")
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-*.pt")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed = process_of(1, process.pid)
    os.kill(killed, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output.count("has died") == 1, output
    assert f"rank 1 (process {killed} on" in output
    assert "The run is kept up to step" in output
    resume = (
        f"torchrun --nproc-per-node 2 cli.py recipe run {out / 'recipe.toml'} --out {out} --resume"
    )
    assert resume in output
    assert not (out / "run.lock").exists()
    saved = max(int(path.stem[5:]) for path in out.glob("checkpoints/step-*.pt"))
    short = replace(slow, schedule=replace(slow.schedule, steps=saved + 1))
    summary = run_recipe(
        short,
        out,
        resume=True,
        allow_change=["schedule"],
        device="cpu",
        console=Console(quiet=True),
    )
    assert summary.steps == saved + 1


def test_a_process_that_is_killed_while_saving_loses_nothing_that_was_saved(tmp_path):
    """The checkpoint before is the newest; one process goes on with it and removes the rest."""
    recipe = tiny_recipe(write_faces(tmp_path))
    recipe = replace(recipe, schedule=replace(recipe.schedule, steps=7))
    (tmp_path / "tiny.toml").write_text(to_toml(recipe), encoding="utf-8")
    out = tmp_path / "run"
    process = torchrun(tmp_path / "tiny.toml", out, program="tests/killed_rank.py")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert output.count("has died") == 1, output
    assert "The run is kept up to step 3" in output
    names = {path.name for path in out.glob("checkpoints/step-*")}
    assert names == {
        "step-00000003.pt", "step-00000003.centres", "step-00000006.centres",
    }  # fmt: skip
    summary = run_recipe(recipe, out, resume=True, device="cpu", console=Console(quiet=True))
    assert summary.steps == 7
    assert not [*out.glob("checkpoints/*.centres")]


def test_an_error_of_all_is_said_once(monkeypatch):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    watch._store.cache_clear()
    assert watch.speaks(ValueError("one process"))
    for name, value in {
        "WORLD_SIZE": 3,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port,
    }.items():
        monkeypatch.setenv(name, str(value))
    said = []
    for rank in (2, 0, 1, 2):
        monkeypatch.setenv("RANK", str(rank))
        said.append(watch.speaks(ValueError("the same mistake")))
    watch._store.cache_clear()
    assert said == [True, False, False, True]


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "", "RANK": "0", "MASTER_ADDR": "localhost"},
        {"WORLD_SIZE": "2", "RANK": "", "MASTER_ADDR": "localhost"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"},
    ],
    ids=str,
)
def test_an_error_with_only_some_variables_of_torchrun_is_one_message(
    monkeypatch, capsys, variables
):
    watch._store.cache_clear()
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = mistake(capsys, monkeypatch, "recipe", "show", "nope")
    assert said.startswith("error: there is no recipe 'nope'")


def test_another_precision_on_another_device_is_refused():
    class OfTwo(Processes):
        def gather(self, value):
            return [value, "float32"]

    check_same_precision("float32", OfTwo())
    with pytest.raises(
        ValueError, match=r"bfloat16 on rank 0 and float32 on rank 1.*train\.precision"
    ):
        check_same_precision("bfloat16", OfTwo())


def test_what_torchrun_does_not_fit(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device(torch.device("cuda")) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="--device cuda, not cuda:0"):
        own_device(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 1 of this machine has no GPU, there are 1"):
        own_device(torch.device("cuda"))
    with pytest.raises(ValueError, match="not on mps"):
        own_device(torch.device("mps"))
    for command, words in ((["run", "mobilefacenet"], "--out"), (["map"], "without torchrun")):
        result = CliRunner().invoke(cli.app, ["recipe", *command])
        assert isinstance(result.exception, ValueError)
        assert words in str(result.exception)
