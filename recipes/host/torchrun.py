"""Facts on this process from torchrun's environment variables."""

import os

import torch


def is_shared() -> bool:
    """Whether torchrun has started this process, with others."""
    # Other programs set WORLD_SIZE too; torchrun sets them all.
    if not os.environ.keys() >= {"WORLD_SIZE", "RANK", "MASTER_ADDR"}:
        return False
    try:
        return int(os.environ["WORLD_SIZE"]) > 1
    except ValueError:
        return False


def own_device(device: torch.device) -> torch.device:
    """The device of this process, of the kind that the user asked for.

    Raises:
        ValueError: there is none for this process.
    """
    if not is_shared() or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ValueError(f"several processes train on cpu or cuda, not on {device.type}")
    if device.index is not None:
        raise ValueError(
            f"under torchrun each process has a GPU of its own: --device cuda, not {device}"
        )
    local, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= found:
        raise ValueError(
            f"process {local} of this machine has no GPU, there are {found}: start no more with "
            "--nproc-per-node, or train with --device cpu"
        )
    return torch.device("cuda", local)
