"""Peak extra memory of one forward and backward: of the allocator on a GPU, of the process on a CPU."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fusedface.bench.case import USABLE_SHARE, Case, Inputs, free_bytes
from fusedface.bench.heads.loss import Loss

if TYPE_CHECKING:
    from fusedface.bench.heads.table import Head

Heads = Callable[[float, torch.device], "list[Head]"]
"""`heads` of `heads/table.py`: all heads at a state t, on a device."""

MIB = 2**20
WARM_UP_CLASSES = 2048


class Meter:
    """Measures peaks beyond the inputs, gradients included.

    On a CPU each step runs in a new process, so that earlier allocations do not change its peak. The
    process is limited to the free memory: a step that needs more raises MemoryError.
    """

    def __init__(self, device: torch.device, heads: Heads) -> None:
        self.device, self.heads = device, heads
        measures = device.type == "cpu" and Path("/proc/self/clear_refs").exists()
        self._pool = _fresh_processes() if measures else None

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def peak_mib(self, case: Case, head: str, loss: Loss, inputs: Inputs) -> float | None:
        """Peak of a head in MiB; None if it cannot be measured.

        Raises:
            MemoryError: it does not fit.
            RuntimeError: the step fails.
        """
        if self.device.type == "cuda":
            return _on_cuda(loss, inputs, self.device)
        if self._pool is None:
            return None
        limit = int(USABLE_SHARE * free_bytes(self.device))
        try:
            threads = torch.get_num_threads()
            return self._pool.submit(
                _in_this_process, case, self.heads, head, limit, threads
            ).result()
        except BrokenProcessPool:
            self.__init__(self.device, self.heads)
            raise MemoryError("the process that ran it was killed") from None


def _fresh_processes() -> ProcessPoolExecutor:
    """One server imports everything once; it forks a fresh child for each measurement."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fusedface.bench.memory", "fusedface.bench.heads.table"])
    return ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)


def peak_mib_of(call: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of a call on a GPU, in MiB, beyond what is in use before it; None on other devices.

    A process on a CPU may keep the memory that earlier calls have freed, so its growth says nothing.
    """
    if device.type != "cuda":
        call()
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


def _on_cuda(loss: Loss, inputs: Inputs, device: torch.device) -> float | None:
    embeddings, weight, _ = inputs
    peak = peak_mib_of(lambda: loss(*inputs).backward(), device)
    embeddings.grad = weight.grad = None
    return peak


def _in_this_process(case: Case, heads: Heads, name: str, limit: int, num_threads: int) -> float:
    """Growth of the resident set to its high-water mark (Linux), in MiB."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(num_threads)
    device = torch.device("cpu")
    loss = next(p for p in heads(case.t, device) if p.name == name).make()
    # The first run creates threads, code and workspaces before the count; a compiler needs the same shape.
    num_warm = (
        case.num_classes if name.startswith(("compiled", "auto-chunked")) else WARM_UP_CLASSES
    )
    loss(*replace(case, num_classes=num_warm).inputs(device)).backward()
    inputs = case.inputs(device)
    before = _resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    loss(*inputs).backward()
    return _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
