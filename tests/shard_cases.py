"""Checkpoints whose class centres lie in a file of each process; every case runs in two processes."""

import shutil
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from distributed_runs import STEPS, finished, folder, recipe, run_on, same
from rich.console import Console

from fusedface.models import build_from_checkpoint, shard_writer
from fusedface.models.shard_files import SHARDS
from fusedface.recipes.run import run_recipe

LAST = f"step-{STEPS:08d}"


def stopped_copy(out, name, at=STEPS):
    """A run as if it had been stopped after a checkpoint; made by rank 0."""
    if dist.get_rank() == 0:
        shutil.copytree(out, folder() / name)
        (folder() / name / "summary.json").unlink()
        if at < STEPS:
            (folder() / name / f"checkpoints/{LAST}.pt").unlink()
    dist.barrier()
    return folder() / name


def is_as_named(out):
    """Each folder of class centres is that of a checkpoint, with a file of each process."""
    found = {path.name: path for path in (out / "checkpoints").iterdir()}
    found = {name: path for name, path in found.items() if not name.endswith(".damaged")}
    named = {
        torch.load(path, weights_only=True)[SHARDS]["folder"]
        for name, path in found.items()
        if name.endswith(".pt")
    }
    assert named == {name for name in found if not name.endswith(".pt")}, found
    for name in named:
        assert sorted(path.name for path in found[name].iterdir()) == [
            "__0_0.distcp", "__1_0.distcp",
        ]  # fmt: skip


def damaged_class_centres(rank, num_ranks):
    """A file that is missing or damaged is named, and the run goes on from the checkpoint before."""
    whole = finished(2)
    for kind in ("missing", "damaged"):
        out = stopped_copy(whole, kind)
        name = f"__{int(kind == 'missing')}_0.distcp"
        path = out / f"checkpoints/{LAST}.centres" / name
        if rank == 0:
            data = path.read_bytes()
            path.unlink()
            if kind == "damaged":
                path.write_bytes(data[:-1] + b"!")
        dist.barrier()
        notes = Console(file=(folder() / f"{kind}{rank}.txt").open("w"), width=1000)
        run_on(num_ranks, kind, recipe(), resume=True, console=notes)
        if rank == 0:
            told = (folder() / f"{kind}0.txt").read_text()
            assert f"skipped a checkpoint: {out / f'checkpoints/{LAST}.pt'}" in told, told
            assert str(path) in told, told
            same(out, whole, 0.0)
            is_as_named(out)


def one_process_refuses_damage(rank, num_ranks):
    """Outside torchrun too; evaluation needs no class centres."""
    out = stopped_copy(finished(2), "outside")
    if rank == 0:
        for path in out.glob("checkpoints/*.centres/__1_0.distcp"):
            path.unlink()
        notes = Console(file=(folder() / "outside.txt").open("w"), width=1000)
        run_recipe(recipe(), out, resume=True, device="cpu", console=notes)
        told = (folder() / "outside.txt").read_text()
        assert told.count("skipped a checkpoint") == 2
        assert told.count("__1_0.distcp") == 2
        same(out, finished(1), 1e-9)
    else:
        finished(1)
    dist.barrier()


def kept_class_centres(rank, num_ranks):
    """Old folders go with their checkpoints; that of the best one stays."""
    given = recipe(train={"checkpoint_every": 1, "keep_checkpoints": 1})
    given = replace(given, evaluation=replace(given.evaluation, every=0.3))
    run_on(num_ranks, "kept", given)
    if rank == 0:
        out = folder() / "kept"
        assert len([*out.glob("checkpoints/step-*.pt")]) == 1
        is_as_named(out)
        build_from_checkpoint(out / "checkpoints/best.pt")


def saved_again(rank, num_ranks):
    """A changed setting is recorded in the newest checkpoint, which is never without class centres."""
    out = stopped_copy(finished(2), "changed")
    given = recipe()
    given = replace(given, train=replace(given.train, log_every=1))
    run_on(num_ranks, "changed", given, resume=True, allow_change=["train.log_every"])
    if rank == 0:
        assert (out / f"checkpoints/{LAST}-2.centres").is_dir()
        is_as_named(out)


def one_process_cannot_write(rank, num_ranks):
    """All end, and what was saved before is left."""
    original, calls = shard_writer.digest_of, []

    def failing(path):
        calls.append(path)
        if rank == 1 and len(calls) == 2:
            raise OSError("no space left on device")
        return original(path)

    shard_writer.digest_of = failing
    try:
        with pytest.raises(OSError, match=r"rank 1 could not write .*no space left") as error:
            run_on(num_ranks, "full", recipe())
    finally:
        shard_writer.digest_of = original
    assert "kept up to step 3" in str(error.value)
    dist.barrier()
    run_on(num_ranks, "full", recipe(), resume=True)
    if rank == 0:
        same(folder() / "full", finished(2), 0.0)
        is_as_named(folder() / "full")
    dist.barrier()


CASES = {
    case.__name__: case
    for case in (
        damaged_class_centres, one_process_refuses_damage, kept_class_centres, saved_again,
        one_process_cannot_write,
    )
}  # fmt: skip
