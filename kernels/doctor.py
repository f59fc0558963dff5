"""Report for `fusedface doctor` which backend runs here and why. It imports on every machine."""

import platform

import torch

from fusedface.kernels import dispatch
from fusedface.kernels.chunks import build
from fusedface.kernels.options import PRECISIONS


def report() -> list[tuple[str, str]]:
    """(name, value) pairs: versions, devices, the backend that "auto" takes, tuned choices on disk."""
    lines = [("Python", platform.python_version()), ("torch", torch.__version__)]
    if reason := dispatch.without_triton():
        lines.append(("Triton", f"cannot be imported: {reason}"))
    else:
        import triton

        lines.append(("Triton", triton.__version__))
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    lines.extend((str(device), _describe(device)) for device in devices)
    if not devices:
        lines.append(("CUDA", "no device"))
    for device in (*devices[:1], torch.device("cpu")):
        choice = dispatch.choose(device, torch.float32)
        lines.append((f"backend on {device.type}", f"{choice.backend}: {choice.reason}"))
    lines.append(("chunks on cpu", build.state()))
    lines.append(("precisions", f"{', '.join(PRECISIONS)}; auto is autocast's, else float32"))
    if not dispatch.without_triton():
        lines.extend(_tuning(devices))
    return lines


def _describe(device: torch.device) -> str:
    properties = torch.cuda.get_device_properties(device)
    return (
        f"{properties.name}, capability {properties.major}.{properties.minor}, "
        f"{properties.multi_processor_count} multiprocessors, "
        f"{properties.total_memory / 2**30:.0f} GiB"
    )


def _tuning(devices: list[torch.device]) -> list[tuple[str, str]]:
    from fusedface.kernels.gpu import cache, choice

    path = cache.path()
    lines = [("tuning file", str(path) if path.exists() else f"{path} (none: shipped tile shapes)")]
    for device in devices:
        num = len(choice.stored(choice.device_name(device)))
        lines.append((f"tuned on {device}", f"{num} choices" if num else "nothing"))
    return lines
