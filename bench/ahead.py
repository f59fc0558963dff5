"""Compiles the kernels of the benchmarks on a GPU, many at a time, before a benchmark comes to them.

A process compiles one kernel after the other, about a second each, and the shapes and heads of the suite
have hundreds. Here worker processes go through the same steps on a driver that starts nothing
(stub_driver.py), as if the tensors were on the GPU. What they compile lies in Triton's cache on disk, where
every later process finds it. The workers do not touch the GPU, and a failure only leaves a kernel to later.

Run: python cli.py bench ahead --shape 512x85742x128 --tune 512x85742x128
"""

import contextlib
import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from fusedface.bench import host
from fusedface.bench.case import Case
from fusedface.bench.failures import FAILURES, failure
from fusedface.bench.heads.loss import M, S
from fusedface.bench.heads.published import fused
from fusedface.bench.heads.table import GPU_PRECISIONS
from fusedface.bench.unknowns import with_two
from fusedface.kernels import ArcFace, CentreSGD, CurricularFace, Margin, NormFace
from fusedface.kernels.options import Precision
from fusedface.models import MarginHead

MARGINS: tuple[type[Margin], ...] = (CurricularFace, ArcFace, NormFace)
TUNED = "bfloat16"  # the precision of `bench tune` and `bench unknowns`, and of trainings on a GPU
TRAINED = ((512, 85_742, 128), (128, 100, 128))
"""B, C and D of `bench trained-step` and `bench convergence`, as the suite starts them."""
CPU = torch.device("cpu")
LONGEST = 2**32  # bytes of class centres; the kernels of more are those of others


class Gpu(NamedTuple):
    """What the compiled code and the choice of tile shapes depend on."""

    capability: int
    shared_memory: int
    processors: int
    memory: int

    @classmethod
    def of(cls, device: torch.device) -> "Gpu":
        """The numbers of a device.

        Raises:
            ValueError: it is not a GPU.
        """
        if device.type != "cuda":
            raise ValueError(f"bench ahead compiles for a GPU, and the device is {device.type}")
        found = torch.cuda.get_device_properties(device)
        return cls(
            10 * found.major + found.minor,
            found.shared_memory_per_block_optin,
            found.multi_processor_count,
            found.total_memory,
        )


class Job(NamedTuple):
    """A step of a fused head; or with `kernel` all tile shapes of one kernel, and no margin.

    With `trains` it is a step in training of a `MarginHead`, with a margin of `host.MARGINS`, and of its
    class centres.
    """

    num_rows: int
    num_classes: int
    dim: int
    precision: Precision
    margin: str = ""
    keep: bool = False
    kernel: str = ""
    trains: bool = False


def jobs(cases: Sequence[Case], tuned: Sequence[Case], gpu: Gpu) -> list[Job]:
    """The steps of all fused heads and trainings, the tile shapes that `tune` times; long ones first."""
    from fusedface.kernels.gpu import layout

    host_sizes = (host.NUM_ROWS, host.NUM_CLASSES, host.DIM)
    found = [Job(*host_sizes, TUNED, margin.name, trains=True) for margin in host.MARGINS]
    found += [Job(*sizes, TUNED, CurricularFace.name, trains=True) for sizes in TRAINED]
    for case in tuned:
        names = ("lse", "flash", "centres")
        if not layout.is_narrow(case.dim, TUNED):
            names = ("lse", "coefficients", "products")
        found += [Job(*_sizes(case), TUNED, kernel=name) for name in names]
    for case in cases:
        if 4 * case.num_classes * case.dim > min(LONGEST, gpu.memory // 4):
            continue
        for margin in MARGINS:
            found += [Job(*_sizes(case), p, margin.name) for p in GPU_PRECISIONS]
        found.append(Job(*_sizes(case), "bfloat16", CurricularFace.name, keep=True))
    return sorted(dict.fromkeys(found), key=lambda job: (not job.kernel, not job.trains, -job.dim))


def _sizes(case: Case) -> tuple[int, int, int]:
    return case.num_rows, case.num_classes, case.dim


def run(
    todo: Sequence[Job],
    gpu: Gpu,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
    workers: int = 0,
) -> list[dict[str, Any]]:
    """Do the jobs, on all cores but one by default; one row each: seconds, or why it failed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fusedface.bench.ahead", "fusedface.kernels.gpu.loss"])
    num = workers or max(1, (os.cpu_count() or 2) - 1)
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(num, mp_context=context) as pool:
        submitted = {pool.submit(_row, job, gpu): job for job in todo}
        for done in as_completed(submitted):
            try:
                rows.append(done.result())
            except BrokenProcessPool:  # of all that were left
                job = submitted[done]._asdict()
                rows.append({"job": job, "seconds": 0.0, "note": "left out: a worker was killed"})
            note(f"{len(rows)} of {len(todo)}")
    return rows


def _row(job: Job, gpu: Gpu) -> dict[str, Any]:
    torch.set_num_threads(1)
    began, why = time.perf_counter(), ""
    try:
        with as_on(gpu):
            compile_for(job)
    except FAILURES as error:
        why = failure(error)
    return {"job": job._asdict(), "seconds": time.perf_counter() - began, "note": why}


@contextlib.contextmanager
def as_on(gpu: Gpu) -> Iterator[None]:
    """Within the block CPU tensors are compiled for as if they were on this GPU; nothing is started."""
    from fusedface.bench.stub_driver import StubDriver, installed
    from fusedface.kernels.gpu import choice, layout

    limits = choice.limits_of(gpu.capability, gpu.shared_memory)
    driver = StubDriver(
        shared_memory=gpu.shared_memory, capability=gpu.capability, launcher=_build_launcher
    )
    with (
        mock.patch.object(choice, "limits", return_value=limits),
        mock.patch.object(choice, "stored", functools.cache(lambda name: {})),  # noqa: ARG005
        mock.patch.object(layout, "processors", return_value=gpu.processors),
        mock.patch.object(layout, "memory", return_value=gpu.memory),
        installed(driver),
    ):
        yield


def _build_launcher(source: Any, metadata: Any) -> None:
    """Up to Triton 3.6 a C compiler makes the launcher of each signature; it is kept on disk, too."""
    from triton.backends.nvidia.driver import CudaLauncher

    with contextlib.suppress(*FAILURES):  # without a driver there is nothing to link with
        CudaLauncher(source, metadata)


def compile_for(job: Job) -> None:
    """Go through the launches of a job, within `as_on`."""
    if job.kernel:
        _compile_tiles(job)
        return
    embeddings = torch.empty(job.num_rows, job.dim).requires_grad_()
    weight = torch.empty(job.num_classes, job.dim).requires_grad_()
    labels = torch.empty(job.num_rows, dtype=torch.int64)
    if job.trains:
        _train(job, embeddings, labels)
        return
    margin = next(kind for kind in MARGINS if kind.name == job.margin)
    margin = margin(s=S) if margin is NormFace else margin(m=M, s=S)  # pyright: ignore[reportCallIssue]
    options: dict[str, Any] = {"keep_exponentials": True} if job.keep else {}
    loss = fused(margin, job.precision, torch.zeros(()), backend="triton", **options)
    loss(embeddings, weight, labels).backward()


def _train(job: Job, embeddings: Tensor, labels: Tensor) -> None:
    """Steps one by one, then what a graph has: the rate on the device, and unit rows made again."""
    margin = next(margin for margin in host.MARGINS if margin.name == job.margin)
    head = MarginHead(job.dim, job.num_classes, margin, backend="triton", precision=job.precision)
    optimizer = CentreSGD(
        head.parameters(), head.weight, momentum=0.9, weight_decay=5e-4, nesterov=True
    )

    def step(lr: float | Tensor) -> None:
        optimizer.param_groups[0]["lr"] = lr
        host.step(head, embeddings, labels)
        optimizer.step()

    for _ in range(2):  # the second finds the unit rows that the first left
        step(0.1)
    optimizer.keep_in_graphs()
    step(torch.tensor(0.1))
    optimizer.forget()
    optimizer.before_replay()


def _compile_tiles(job: Job) -> None:
    from fusedface.kernels.gpu import choice, launch, tuning

    def compile_all(case: choice.Case, start: Callable[..., Any]) -> None:
        if case.kernel != job.kernel:
            return
        tiles = [*choice.ranked(case, CPU)]
        if case.kernel in ("flash", "centres"):
            tiles.append(with_two(tiles[0]))
        for tile in tiles:
            with contextlib.suppress(launch.SpillsError, *launch.REFUSALS):
                start(tile, launch.start_unspilled)

    with choice.decided.watched_by(compile_all):
        tuning.step(job.num_rows, job.num_classes, job.dim, job.precision, CPU)
