"""Result files: machine, date and rows of a benchmark; rewritten after each case."""

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fusedface.recipes.run_directory.environment import git_revision, installed_version

PACKAGES = (
    "torch", "triton", "pytorch-metric-learning", "liger-kernel", "cut-cross-entropy", "quack-kernels",
)  # fmt: skip


def machine(device: torch.device) -> dict[str, Any]:
    """The machine on which the figures were taken."""
    on_gpu = device.type == "cuda"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda if on_gpu else None,
        "instructions": None if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: found for name in PACKAGES if (found := installed_version(name))},
        "revision": git_revision(),
    }


def document(
    benchmark: str, device: torch.device, rows: Sequence[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """The content of a result file: benchmark, machine, rows, and the entries of `more`."""
    return {"benchmark": benchmark, "machine": machine(device), **more, "rows": list(rows)}


def write_json(path: Path, document: Any) -> None:
    """Write JSON atomically: a reader never sees half a file, and a kill leaves none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read(path: Path) -> dict[str, Any]:
    """Read a result file as `document` makes it.

    Raises:
        ValueError: it is not a result file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict) or not {"benchmark", "machine", "rows"} <= document.keys():
        raise ValueError(f"{path} is not a result of a benchmark: give a file that --out wrote")
    return document


def describe(facts: dict[str, Any]) -> str:
    """One line on the machine."""
    threads = "" if facts.get("cuda") else f", {facts['threads']} threads"
    instructions = f" ({found})" if (found := facts.get("instructions")) else ""
    return f"{facts['device']}{instructions}{threads}, torch {facts['packages']['torch']}, {facts['date']}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
