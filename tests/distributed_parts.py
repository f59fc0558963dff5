"""Parts of a run that several processes share, each by itself: class centres, beginning, verification."""

import math
from dataclasses import replace

import torch
import torch.distributed as dist
from compared_cases import CASES as COMPARISONS
from distributed_cases import STEPS_AND_ERRORS, shared
from distributed_runs import (
    SAVED,
    STEPS,
    Small,
    content,
    faces,
    finished,
    folder,
    group_of,
    recipe,
    run_on,
    same,
)
from gloo import fails
from shard_cases import CASES as SHARDS
from shard_cases import stopped_copy
from tiny_run import NUM_IDENTITIES

from fusedface.kernels.sharded import classes_of
from fusedface.models import shard_reader
from fusedface.recipes.configuration.own_files import with_init
from fusedface.recipes.evaluation import embedding, evaluate
from fusedface.recipes.training import verifying


def class_centres_in_the_backward(rank, num_ranks):
    """With optim.fuse_centres each process updates its own, and checkpoints hold the momentum of all."""
    given = recipe(optim={"fuse_centres": True})
    for count in (1, num_ranks):
        run_on(count, f"fused{count}", given)
    if rank == 0:
        same(folder() / f"fused{num_ranks}", folder() / "fused1", 1e-9)


def batches_in_parts(rank, num_ranks):
    """With optim.accumulate, processes average the sum over the parts; statistics of parts would differ."""
    given = recipe(train={"freeze_statistics": True}, optim={"accumulate": 3})
    for count in (1, num_ranks):
        run_on(count, f"parts{count}", given)
    if rank == 0:
        same(folder() / f"parts{num_ranks}", folder() / "parts1", 1e-9)


def class_centres_in_bfloat16(rank, num_ranks):
    """A run goes on to the same bits; momentum in bfloat16 too, and the update of sampled classes."""
    given = recipe(
        optim={"fuse_centres": True, "centres_dtype": "bfloat16", "batch_size": 2},
        train={"log_every": 1},
    )
    given = replace(given, head=replace(given.head, sample_rate=0.7))
    run_on(num_ranks, "bfloat16", given)
    again = stopped_copy(folder() / "bfloat16", "bfloat16again", at=SAVED)
    run_on(num_ranks, again.name, given, resume=True)
    if rank == 0:
        same(again, folder() / "bfloat16", 0.0)
        assert content(again)["/head/weight"].dtype == torch.bfloat16


def begun_with_a_checkpoint(rank, num_ranks):
    """Class centres at the mean of each person's images, t, and what comes of them."""
    given = with_init(recipe(), finished(1) / f"checkpoints/step-{STEPS:08d}.pt")
    given = replace(given, init=replace(given.init, centres="mean"))
    for count in (1, num_ranks):
        run_on(count, f"begun{count}", given)
    if rank == 0:
        same(folder() / f"begun{num_ranks}", folder() / "begun1", 1e-9)


def begun_with_class_centres_in_files(rank, num_ranks):
    """Each process reads its own rows only; a file that one of them lacks is an error of all."""
    step = f"checkpoints/step-{STEPS:08d}"
    given = with_init(recipe(), finished(2) / f"{step}.pt")
    given = replace(given, init=replace(given.init, centres="checkpoint"))
    original, read = shard_reader.read_rows, []

    def noting(files, classes, names=None):
        read.extend(classes)
        return original(files, classes, names)

    shard_reader.read_rows = noting
    try:
        for count in (1, num_ranks):
            read.clear()
            run_on(count, f"files{count}", given)
    finally:
        shard_reader.read_rows = original
    own = classes_of(NUM_IDENTITIES, rank, num_ranks)
    assert read == list(own)
    if rank == 0:
        same(folder() / f"files{num_ranks}", folder() / "files1", 1e-9)
    lacking = stopped_copy(finished(2), "lacking")
    if rank == 0:
        (lacking / f"{step}.centres" / "__1_0.distcp").unlink()
    dist.barrier()
    given = with_init(given, lacking / f"{step}.pt")
    given = replace(given, init=replace(given.init, centres="checkpoint"))
    fails(
        ValueError, ["cannot read", "__1_0.distcp"] + ["rank 1"] * (rank == 0),
        lambda: run_on(num_ranks, "without", given),
    )  # fmt: skip
    dist.barrier()


def verified_together(rank, num_ranks):
    """Each process embeds some batches, or none; the figures are those of one to the bit."""
    processes = group_of(num_ranks)
    network = Small().eval().double()
    for size in (4, 7, 100):  # 60 images
        verifying.BATCH_SIZE = embedding.BATCH_SIZE = size
        for pairs in faces().tests.values():
            together = verifying.evaluate_shared(network, pairs, processes)
            assert together.as_dict() == evaluate.evaluate_pairs(network, pairs).as_dict()
    with torch.no_grad():
        network.layers[0].weight.fill_(math.nan)
    fails(
        embedding.NonFiniteEmbeddingsError, ["not finite"],
        lambda: verifying.evaluate_shared(network, pairs, processes),
    )  # fmt: skip
    verifying.BATCH_SIZE = embedding.BATCH_SIZE = 64


OF_TWO = (
    STEPS_AND_ERRORS
    | shared(
        class_centres_in_the_backward,
        class_centres_in_bfloat16,
        begun_with_a_checkpoint,
        begun_with_class_centres_in_files,
        verified_together,
    )
    | SHARDS
    | COMPARISONS
)
