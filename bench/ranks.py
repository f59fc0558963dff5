"""How long does a step of the head take when several processes of this machine share the class centres?

The batch is the same for each number of processes. The numbers take turns within the same processes, so
that other load of the machine affects all of them alike.

Run: python cli.py bench ranks
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fusedface.bench.case import Case
from fusedface.kernels import CurricularFace
from fusedface.models import MarginHead

Step = Callable[[], None]
LOOK_SECONDS = 1.0  # between two checks that the processes live


def run(case: Case, counts: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """One row per number of processes, see `measure`; Gloo on this machine, one thread per process.

    Raises:
        ValueError: the batch cannot be divided evenly.
        RuntimeError: a process has died.
    """
    for count in counts:
        if count < 1 or case.num_rows % count:
            raise ValueError(f"{case.num_rows} rows cannot be shared evenly by {count} processes")
    context = multiprocessing.get_context("spawn")
    rows: multiprocessing.Queue[list[dict[str, Any]]] = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()
        processes = [
            context.Process(target=_process, args=(rank, case, counts, rounds, store, rows))
            for rank in range(max(counts))
        ]
        for process in processes:
            process.start()
        try:
            return _first(rows, processes)
        finally:
            for process in processes:
                process.join(LOOK_SECONDS)
                process.kill()


def _first(rows: Any, processes: Sequence[Any]) -> list[dict[str, Any]]:
    """What a process puts into the queue `rows`; raises RuntimeError if one of them dies before."""
    while rows.empty():
        if any(process.exitcode for process in processes):
            raise RuntimeError("a process of the benchmark has died")
        time.sleep(LOOK_SECONDS / 10)
    return rows.get()


def _process(
    rank: int, case: Case, counts: Sequence[int], rounds: int, store: str, rows: Any
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=max(counts))
    found = measure(case, counts, rounds)
    if rank == 0:
        rows.put(found)
    dist.barrier()


def measure(case: Case, counts: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Time forward and backward of the head in the first 1, 2, ... processes, in turn. All must call it.

    Returns:
        One row for each of `counts`: milliseconds until the last process is done, and their ratio to
        those of the first of `counts`. Both are medians over the rounds.
    """
    prepared = [(count, *_prepare(case, count)) for count in counts]
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(rounds + 1):  # the first one warms up
        for count, group, step in prepared:
            dist.barrier()
            begin = time.perf_counter()
            if step is not None:
                step()
                dist.barrier(group=group)
            if number > 0:
                seconds[count].append(time.perf_counter() - begin)
    first = seconds[counts[0]]
    return [
        {
            "case": str(case),
            "processes": count,
            "ms": 1e3 * statistics.median(found),
            "ratio": statistics.median(a / b for a, b in zip(found, first, strict=True)),
        }
        for count, found in seconds.items()
    ]


def _prepare(case: Case, count: int) -> tuple[dist.ProcessGroup | None, Step | None]:
    """The group of the first `count` processes and this process's step; None if it is not in the group."""
    group = dist.new_group(list(range(count)))
    rank = dist.get_rank()
    if rank >= count or not isinstance(group, dist.ProcessGroup):
        return None, None
    torch.manual_seed(0)
    shared = None if count == 1 else group
    head = MarginHead(case.dim, case.num_classes, CurricularFace(), process_group=shared)
    embeddings = torch.randn(case.num_rows, case.dim).chunk(count)[rank].requires_grad_()
    labels = torch.randint(case.num_classes, (case.num_rows,)).chunk(count)[rank]

    def step() -> None:
        head.weight.grad = embeddings.grad = None
        head(embeddings, labels).loss.backward()

    return group, step
