"""What several processes do together in tests/recipes/test_distributed.py; each case runs in all of them.

The truth is the run of a single process, in float64 so that no difference hides in rounding; without
autocast, which would round the embeddings on processors that multiply bfloat16.
"""

import os
import signal
from dataclasses import replace

import torch
import torch._dynamo  # an optimiser would: once here, not in every process
import torch.distributed as dist
from distributed_runs import (
    STEPS,
    copy_of_stopped,
    finished,
    folder,
    group_of,
    recipe,
    resumed,
    run_of_several,
    run_on,
    same,
    trained,
)
from gloo import fails
from sharded_training import margins
from tiny_run import NUM_IDENTITIES

from fusedface.data.dataset import FaceDataset
from fusedface.recipes import run
from fusedface.recipes.configuration.own_files import with_teacher
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.replicas import grad_scaler
from fusedface.recipes.training.trainer import Trainer


def averaged_and_frozen(rank, num_ranks):
    """An average of the weights, AdamW, a frozen start: nothing of it knows of processes."""
    given = recipe(optim={"kind": "adamw"}, train={"ema": 0.9, "freeze": 2})
    for count in (1, num_ranks):
        run_on(count, f"adamw{count}", given)
    if rank == 0:
        # AdamW divides by the root of what it has seen of a gradient, however small.
        same(folder() / f"adamw{num_ranks}", folder() / "adamw1", 1e-5)


def taught(rank, num_ranks):
    """A teacher has each process's images; loss, weights and figures are those of a single process."""
    same_as_one(rank, num_ranks, "taught")


def taught_by_a_projection(rank, num_ranks):
    """Each process learns the same linear map to the teacher's embeddings."""
    same_as_one(rank, num_ranks, "projected", projection=True)


def taught_class_centres(rank, num_ranks):
    """Each process moves the class centres that it holds, by the images of all."""
    given = same_as_one(rank, num_ranks, "placed", method="adadistill")
    whole, out = (folder() / f"placed{name}" for name in (num_ranks, "-again"))
    if rank == 0:
        copy_of_stopped(whole, out)
    dist.barrier()
    run_on(1, out.name, given, resume=True)
    if rank == 0:
        same(out, whole, 1e-9)


def same_as_one(rank, num_ranks, name, **teacher):
    """Compare a run with a teacher on all processes with that of one; its recipe."""
    given = with_teacher(recipe(), finished(1) / f"checkpoints/step-{STEPS:08d}.pt")
    given = replace(given, teacher=replace(given.teacher, **teacher))
    for count in (1, num_ranks):
        run_on(count, f"{name}{count}", given)
    if rank == 0:
        same(folder() / f"{name}{num_ranks}", folder() / f"{name}1", 1e-9)
    return given


def other_recipe(rank, num_ranks):
    given = recipe()
    if rank == 1:
        given = replace(given, optim=replace(given.optim, lr=0.5))
    fails(
        ValueError, ["rank 1", "optim.lr: 0.5 instead of 0.05"],
        lambda: run_on(num_ranks, "other", given),
    )  # fmt: skip
    assert not (folder() / "other").exists()


def other_faces(rank, num_ranks):
    """The same path has other images on another machine."""
    given = recipe()
    original = run.fingerprint
    if rank == num_ranks - 1:
        run.fingerprint = lambda source: original(source) | {"num_images": 35}
    try:
        words = ["data.source", "36 images of 6 people on rank 0", f"on rank {num_ranks - 1}", "35"]
        fails(ValueError, words, lambda: run_on(num_ranks, "faces", given))
    finally:
        run.fingerprint = original
    assert not (folder() / "faces").exists()


def missing_faces(rank, num_ranks):
    """What one process cannot read, all of them refuse."""
    given = recipe()
    original = run.open_faces
    if rank == 1:
        run.open_faces = lambda *_: original(replace(given.data, source="/nowhere"), *_[1:])
    try:
        fails(ValueError, ["/nowhere"], lambda: run_on(num_ranks, "missing", given))
    finally:
        run.open_faces = original


def uneven_batch(rank, num_ranks):
    given = recipe()
    given = replace(given, optim=replace(given.optim, batch_size=4 * num_ranks + 1))
    words = [str(4 * num_ranks + 1), f"{num_ranks} processes", "optim.batch_size"]
    fails(ValueError, words, lambda: run_on(num_ranks, "uneven", given))
    dist.barrier()


def used_folder(rank, num_ranks):
    """What is refused to one process is refused to all, with the same words."""
    finished(1)
    fails(
        ValueError, ["is not empty", "--resume"], lambda: run_on(num_ranks, "finished1", recipe())
    )


def finished_run(rank, num_ranks):
    """A run that has come to its end is only reported, to all."""
    finished(1)
    summary = run_on(num_ranks, "finished1", recipe(), resume=True)
    assert summary.steps == STEPS


def on_step(rank, step, action):
    """Let one process do something before a step."""
    original = Trainer._train_step

    def replacement(self, batch):
        if self.processes.rank == rank and self.progress.step == step:
            action()
        original(self, batch)

    Trainer._train_step = replacement
    return original


def one_signal(rank, num_ranks):
    """A signal to one process stops all of them after the same step, saved."""
    original = on_step(1, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        summary = run_on(num_ranks, "signal", recipe())
    finally:
        Trainer._train_step = original
    assert (summary.verdict, summary.steps) == ("interrupted", 2)
    assert summary.message == "SIGTERM after 2 steps"
    assert (folder() / "signal/checkpoints/step-00000002.pt").exists()


def lost_images(rank, num_ranks):
    """Images that one process can no longer read end all of them, and what is trained is saved."""
    original, calls = FaceDataset.batch, []

    def failing(self, indices):
        calls.append(indices)
        if rank == 1 and len(calls) == 3:
            raise ValueError("the disk is gone")
        return original(self, indices)

    FaceDataset.batch = failing
    try:
        fails(
            OSError, ["the disk is gone", "kept up to step 2"],
            lambda: run_on(num_ranks, "lost", recipe()),
        )  # fmt: skip
    finally:
        FaceDataset.batch = original


def unreadable_images(rank, num_ranks):
    """Each process tells the first which of its images cannot be read."""
    original = FaceDataset.batch

    def spoiled(self, indices):
        return original(self, indices)._replace(unreadable=(f"image of rank {rank}",))

    FaceDataset.batch = spoiled
    try:
        summary = run_on(num_ranks, "unreadable", recipe())
    finally:
        FaceDataset.batch = original
    assert summary.unreadable_images == num_ranks


def not_finite(rank, num_ranks):
    """The process that holds the bad tensor is named, and all end alike."""

    def spoil():
        with torch.no_grad():
            trainer.learner.head.weight[0] = torch.nan

    trainer = None
    original = Trainer._train_step

    def replacement(self, batch):
        nonlocal trainer
        trainer = self
        if self.processes.rank == 1 and self.progress.step == 1:
            spoil()
        original(self, batch)

    Trainer._train_step = replacement
    try:
        summary = run_on(num_ranks, "nan", recipe())
    finally:
        Trainer._train_step = original
    assert summary.verdict == "non_finite"
    assert "first the head's weight on rank 1" in summary.message


def one_infinite_gradient(rank, num_ranks):
    """A step that one process must leave out is left out by all."""
    scaler = grad_scaler(Precision(torch.device("cpu"), torch.float16), group_of(num_ranks))
    weight = torch.zeros(2, dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for bad in (False, True):
        scaler.scale((weight * torch.ones(2)).sum()).backward()
        if bad and rank == 1:
            weight.grad[0] = torch.inf
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.equal(weight.detach(), torch.full((2,), -1.0, dtype=torch.float32))


def shared(*cases):
    return {case.__name__: case for case in cases}


RUNS = {
    **{f"run on {count}": run_of_several(count) for count in (2, 3, 4)},
    **{
        f"from {before} to {after}": resumed(before, after)
        for before, after in ((2, 2), (3, 3), (4, 4), (1, 4), (4, 1), (2, 3), (3, 2))
    },
    "training curricularface": trained("curricularface"),
}
"""Of up to four processes."""

STEPS_AND_ERRORS = {
    **{f"training {name}": trained(name) for name in margins(NUM_IDENTITIES)},
    **shared(
        averaged_and_frozen, taught, taught_by_a_projection, taught_class_centres, other_recipe,
        other_faces, missing_faces, uneven_batch, used_folder, finished_run, one_signal, lost_images,
        unreadable_images, not_finite, one_infinite_gradient,
    ),
}  # fmt: skip
"""Of two."""
