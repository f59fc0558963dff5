"""Peak extra memory of one forward and backward: the allocator's on a GPU, the process's on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from fusedface.bench.case import Case
from fusedface.bench.peers import providers

MIB = 2**20


def peak_extra_mib(case: Case, provider_name: str, device: torch.device) -> float | None:
    """Peak memory of a step beyond its inputs, gradients included; None where it cannot be told.

    On a CPU the step runs in a fresh process, so that no earlier allocation hides in its peak.
    """
    if device.type == "cuda":
        return _step_on_cuda(case, provider_name, device)
    if not Path("/proc/self/clear_refs").exists():
        return None
    arguments = [case.num_rows, case.num_classes, case.dim, case.phase, provider_name]
    command = [sys.executable, "-m", "fusedface.bench.memory", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def _step_on_cuda(case: Case, provider_name: str, device: torch.device) -> float:
    loss = _loss(case, provider_name)
    embeddings, weight, labels = case.inputs(device)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    loss(embeddings, weight, labels).backward()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


def _step_in_this_process(case: Case, provider_name: str) -> float:
    """Growth of the resident set to its high-water mark (Linux), in MiB."""
    device = torch.device("cpu")
    loss = _loss(case, provider_name)
    small = Case(case.num_rows, 2048, case.dim, case.phase).inputs(device)
    loss(*small).backward()  # threads, code and workspaces are there before the count starts
    inputs = case.inputs(device)
    before = _resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    loss(*inputs).backward()
    return _resident_mib("VmHWM") - before


def _loss(case: Case, provider_name: str):
    return next(p for p in providers(case.t) if p.name == provider_name).make()


def _resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


if __name__ == "__main__":
    rows, classes, dim, phase, name = json.loads(sys.argv[1])
    print(_step_in_this_process(Case(rows, classes, dim, phase), name))  # noqa: T201
