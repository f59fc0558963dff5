"""The environment of a run: versions, device, revision of the code."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("fusedface", "torch", "triton", "numpy", "albumentations", "pillow", "tensorboard")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """All facts besides the recipe that a result may depend on, for environment.json."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "python": platform.python_version(),
        "platform": " ".join((platform.system(), platform.machine(), *platform.libc_ver())),
        "packages": {name: installed_version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "git_revision": git_revision(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def processor() -> str | None:
    """The model of the processor, such as "AMD EPYC 9V74"; None where Linux does not tell it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return None
    return next(
        (text.partition(":")[2].strip() for text in lines if text.startswith("model name")), None
    )


def device_name(device: torch.device) -> str:
    """A description of a device, such as "cuda (NVIDIA H100)" or "cpu (x86_64, 2 threads)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak memory so far, of the allocator on a GPU, else of this process; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS: bytes, else KiB


def cpu_seconds() -> float:
    """CPU time of this process and of its ended children so far, in seconds of a core."""
    return sum(os.times()[:4])


def installed_version(package: str) -> str | None:
    """The version of a package, such as "2.13.0"; None if the package is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """The commit of this checkout, with "-dirty" if files are changed; None outside of a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
