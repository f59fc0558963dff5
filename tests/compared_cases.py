"""Comparisons whose runs two processes share."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from distributed_cases import on_step
from distributed_runs import QUIET, folder, group_of, recipe, run_on, same
from rich.console import Console

from fusedface.kernels import ArcFace, CurricularFace
from fusedface.recipes.compare import page
from fusedface.recipes.compare.compare import compare
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training.trainer import Trainer

CPU = torch.device("cpu")
NAMES = ("curricularface", "arcface")


def losses():
    margins = (CurricularFace(m=0.3, s=16.0), ArcFace(m=0.3, s=16.0))
    return [replace(recipe(margin), name=name) for margin, name in zip(margins, NAMES, strict=True)]


def comparison(out, recipes=None, **options):
    """A comparison of all processes, without the page."""
    original, page.write_page = page.write_page, lambda results, losses, out: out / "report.html"
    try:
        return compare(
            recipes or losses(),
            folder() / out,
            num_seeds=1,
            device=CPU,
            processes=group_of(dist.get_world_size()),
            **{"console": QUIET, "run_recipe": run_recipe} | options,
        )
    finally:
        page.write_page = original


def compared(rank, num_ranks):
    """Each run is that of a single process; what is finished is not repeated."""
    told = Console(file=(folder() / f"compared{rank}.txt").open("w"), width=200)
    found = comparison("compared", console=told)
    assert {loss.label for loss in found} == set(NAMES)
    assert all(sum(loss.verdicts.values()) == 1 for loss in found)
    for given in losses():
        run_on(1, f"single-{given.name}", given)
        if rank == 0:
            out = folder() / f"compared/runs/{given.name}/seed5"
            same(out, folder() / f"single-{given.name}", 1e-9)
            assert out.with_suffix(".toml").exists()
            assert out.with_suffix(".txt").read_text()
    if rank == 0:
        content = json.loads((folder() / "compared/comparison.json").read_text())
        assert [run["label"] for run in content["runs"]] == [*NAMES]
        assert (
            "2 runs, 0 of them done before, 1 at a time" in (folder() / "compared0.txt").read_text()
        )
    else:
        assert not (folder() / f"compared{rank}.txt").read_text()
    again = comparison("compared", run_recipe=lambda *_, **__: pytest.fail("repeated"))
    assert again == found


def stopped_comparison(rank, num_ranks):
    """A signal to one process stops all; the same call goes on with the run, and with the next."""
    original = on_step(1, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    told = Console(file=(folder() / f"stopped{rank}.txt").open("w"), width=200)
    try:
        assert comparison("stopped", console=told) is None
    finally:
        Trainer._train_step = original
    assert not (folder() / "stopped/runs/arcface/seed5").exists()
    if rank == 0:
        words = "stopped by SIGTERM after 2 steps of curricularface, seed 5"
        assert words in (folder() / "stopped0.txt").read_text()
    found = comparison("stopped")
    assert {loss.label for loss in found} == set(NAMES)
    if rank == 0:
        shutil.rmtree(folder() / "stopped")
    dist.barrier()


def a_run_that_fails(rank, num_ranks):
    """It is reported, and the others are made."""

    def failing(given, *arguments, **options):
        if given.name == "arcface":
            raise ValueError("no such thing")
        return run_recipe(given, *arguments, **options)

    told = Console(file=(folder() / f"failed{rank}.txt").open("w"), width=200)
    found = comparison("failed", console=told, run_recipe=failing)
    assert {loss.label: [*loss.verdicts] for loss in found}["arcface"] == ["failed"]
    if rank == 0:
        assert "arcface, seed 5 failed: error: no such thing" in (
            (folder() / "failed0.txt").read_text()
        )


def refused_comparisons(rank, num_ranks):
    """Other runs on another process, and several runs at once."""
    with pytest.raises(ValueError, match="leave out --jobs 2"):
        comparison("refused", jobs=2)
    first, other = losses()
    if rank == 1:
        other = replace(other, head=replace(other.head, margin=ArcFace(m=0.4, s=16.0)))
    with pytest.raises(ValueError, match=r"rank 1 was given another recipe(.|\n)*m: 0\.4 instead"):
        comparison("refused", [first, other])
    third = replace(recipe(ArcFace(m=0.2, s=16.0)), name="third")
    with pytest.raises(
        ValueError, match="rank 1 was given a comparison of 3 runs, rank 0 one of 2"
    ):
        comparison("refused", [*losses(), third] if rank == 1 else None)
    assert not (folder() / "refused").exists()


CASES = {
    case.__name__: case
    for case in (compared, stopped_comparison, a_run_that_fails, refused_comparisons)
}
