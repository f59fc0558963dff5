"""Runs of several processes for tests/distributed_cases.py: made, and compared with one process.

The truth is the run of a single process, in float64 so that no difference hides in rounding; without
autocast, which would round the embeddings on processors that multiply bfloat16.
"""

import functools
import json
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._dynamo  # an optimiser would: once here, not in every process
import torch.distributed as dist
from rich.console import Console
from sharded_training import margins
from tiny_run import NUM_IDENTITIES, faces_of, flat, tiny_recipe, write_faces
from torch import nn

from fusedface.models import MODELS, Backbone, Preprocessing
from fusedface.models.shard_files import ShardFiles
from fusedface.models.shard_reader import read_rows
from fusedface.recipes.configuration.recipe import BackboneOptions
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.report import curves
from fusedface.recipes.run import run_recipe
from fusedface.recipes.run_directory import metrics
from fusedface.recipes.training.checkpoint_folder import CheckpointFolder
from fusedface.recipes.training.display import PlainDisplay
from fusedface.recipes.training.parts import make_trainer
from fusedface.recipes.training.precision import Precision

QUIET = Console(quiet=True)
STEPS, SAVED = 6, 3
TIMED = {"seconds", "train_seconds", "cpu_seconds", "images_per_second"}


class Small(Backbone):
    """Two convolutions and all kinds of batch normalisation: as quick as a backbone can be."""

    name = "small"

    def __init__(self, embedding_dim=16, input_size=(32, 32), width=1.0):
        super().__init__(embedding_dim, input_size, width)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4, bias=False), nn.BatchNorm2d(8), nn.PReLU(8),
            nn.Conv2d(8, 8, 4, stride=4, bias=False), nn.BatchNorm2d(8, momentum=0.3), nn.Flatten(),
        )  # fmt: skip
        self.embedding = nn.Sequential(nn.Linear(32, embedding_dim), nn.BatchNorm1d(embedding_dim))

    def features(self, images):
        return self.layers(images)


@functools.cache
def folder():
    """The same for all processes, with faces in it; what is slow and not in question is switched off."""
    torch.set_default_dtype(torch.float64)
    MODELS["small"] = Small
    original = Preprocessing.images_to_tensor
    Preprocessing.images_to_tensor = lambda self, images: original(self, images).double()
    curves.plot_curves = lambda _folder: []
    metrics._open_board = lambda _folder, _step: (None, None)
    made = [None]
    if dist.get_rank() == 0:
        made = [Path(tempfile.mkdtemp(dir=os.environ["FUSEDFACE_TEST_FOLDER"]))]
        write_faces(made[0])
    dist.broadcast_object_list(made)
    return made[0]


@functools.cache
def group_of(count):
    """The first `count` processes, as one run has them; None for those that are not among them."""
    members = list(range(count))
    group, control = dist.new_group(members), dist.new_group(members)
    rank = dist.get_rank()
    if rank >= count:
        return None
    return Processes() if count == 1 else Processes(rank, count, group, control)


def recipe(margin=None, **settings):
    base = tiny_recipe(folder())
    train = {"checkpoint_every": SAVED, "precision": "float32"} | settings.get("train", {})
    if margin is not None:
        base = replace(base, head=replace(base.head, margin=margin))
    return replace(
        base,
        backbone=BackboneOptions(name="small", embedding_dim=16, input_size=(32, 32)),
        optim=replace(base.optim, **{"batch_size": 12} | settings.get("optim", {})),
        schedule=replace(base.schedule, steps=STEPS),
        train=replace(base.train, **train),
        evaluation=replace(base.evaluation, every=0.0),
    )


def run_on(count, out, given, **options):
    """Run on the first `count` processes while the others wait; its summary."""
    processes = group_of(count)
    summary = None
    if processes is not None:
        summary = run_recipe(
            given,
            folder() / out,
            device="cpu",
            processes=processes,
            **{"console": QUIET} | options,
        )
    dist.barrier()
    return summary


@functools.cache
def finished(count):
    """The folder of a run of `count` processes that was never stopped."""
    out = f"finished{count}"
    run_on(count, out, recipe())
    return folder() / out


def content(out, step=STEPS):
    """Every entry of a checkpoint, with all class centres wherever they are, and of the metrics."""
    path = out / f"checkpoints/step-{step:08d}.pt"
    checkpoint = torch.load(path, weights_only=True)
    if (files := ShardFiles.of(path, checkpoint)) is not None:
        files.check()
        rows = read_rows(files, range(NUM_IDENTITIES))
        del checkpoint["shards"]
        assert "weight" not in checkpoint["head"]
        checkpoint["head"]["weight"] = rows.pop("weight")
        states = checkpoint["optimizer"]["state"]
        # The groups "backbone" and "embedding" come before.
        index = sum(len(g["params"]) for g in checkpoint["optimizer"]["param_groups"][:2])
        # Centres that take no gradient have no state.
        assert not rows.keys() & states.get(index, {}).keys()
        if rows:
            states[index] |= rows
    found = flat(checkpoint)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found |= flat([json.loads(line) for line in lines], "/metrics")
    return {key: value for key, value in found.items() if key.rpartition("/")[2] not in TIMED}


def same(actual, expected, tolerance):
    """Whether two runs are the same: bit for bit, or each tensor within a share of its largest number."""
    actual, expected = content(actual), content(expected)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        found = actual[key]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert found.shape == value.shape, key
            scale = max(value.abs().max().item(), 1e-3) if value.numel() else 1.0
            error = (found - value).abs().max().item() if value.numel() else 0.0
            # State and measurements are float32.
            allowed = tolerance if value.dtype == torch.float64 else tolerance and 1e-6
            assert error <= allowed * scale, (key, error, scale)
        elif isinstance(value, float):
            assert found == pytest.approx(value, rel=tolerance and 1e-5, abs=tolerance), key
        elif isinstance(value, torch.Tensor):
            assert torch.equal(found, value), key
        else:
            assert found == value, key


def run_of_several(count):
    def case(rank, num_ranks):
        """Weights, momentum, generators, t, and every line of metrics are those of a single process."""
        out = finished(count)
        if rank == 0:
            same(out, finished(1), 1e-9)
        else:
            finished(1)

    return case


def copy_of_stopped(whole, out):
    """Copy a finished run as if it had been stopped before its last checkpoint."""
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    (out / f"checkpoints/step-{STEPS:08d}.pt").unlink()


def resumed(before, after):
    def case(rank, num_ranks):
        """A run that was stopped on some processes goes on on others."""
        whole, out = finished(before), folder() / f"resumed{before}-{after}"
        if rank == 0:
            copy_of_stopped(whole, out)
        dist.barrier()
        summary = run_on(after, out.name, recipe(), resume=True)
        if rank == 0:
            same(out, whole, 0.0 if before == after else 1e-9)
            starts = json.loads((out / "environment.json").read_text(encoding="utf-8"))
            assert [start["processes"] for start in starts] == [before, after]
            assert summary.steps == STEPS

    return case


def trained(name):
    def case(rank, num_ranks):
        """The learner's loss, state, gradients and weights with any margin, after two steps."""
        given = recipe(margins(NUM_IDENTITIES)[name])
        learners = []
        for processes in (Processes(), group_of(num_ranks)):
            trainer = trainer_of(given, processes)
            learner = trainer.learner
            batches = trainer.plan.batches.load(trainer.dataset, 0, num_workers=0, pin_memory=False)
            for step, batch in zip(range(2), batches, strict=False):
                learner.prepare(step)
                learner.learn(step, batch)
            learners.append(learner)
        alone, shared = learners
        near("meter", torch.stack(shared.meter.rows), torch.stack(alone.meter.rows), 1e-5)
        for key, value in alone.model.state_dict().items():
            near(key, shared.model.state_dict()[key], value, 1e-9)
        for (key, one), other in zip(
            alone.model.named_parameters(), shared.model.parameters(), strict=True
        ):
            near(f"gradient of {key}", other.grad, one.grad, 1e-8)
        own = slice(shared.head.classes.start, shared.head.classes.stop)
        near("class centres", shared.head.weight, alone.head.weight[own], 1e-9)
        near("their gradient", shared.head.weight.grad, alone.head.weight.grad[own], 1e-8)
        for key, value in alone.head.state.items():
            near(key, shared.head.state[key], value, 1e-6)

    return case


@functools.cache
def faces():
    return faces_of(recipe())


def trainer_of(given, processes):
    opened = faces()
    torch.manual_seed(given.train.seed)
    return make_trainer(
        given,
        given.backbone.build(),
        opened,
        checkpoints=CheckpointFolder(folder() / "nowhere", 1, {}),
        precision=Precision(torch.device("cpu"), torch.float32),
        display=PlainDisplay(QUIET),
        began=time.perf_counter(),
        processes=processes,
    )


def near(name, actual, expected, tolerance):
    actual, expected = actual.detach().double(), expected.detach().double()
    assert torch.equal(actual.isnan(), expected.isnan()), name
    if expected.numel():
        error = (actual - expected).nan_to_num().abs().max()
        assert error <= tolerance * max(expected.nan_to_num().abs().max(), 1e-3), (name, error)
