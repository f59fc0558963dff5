"""Read a file of torch.save or safetensors without running code from it."""

import errno
import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

FORMAT, VERSION = "fusedface-checkpoint", 1  # the entries of this project's checkpoints
ZIP_MAGIC = b"PK"
METADATA = "fusedface"  # entry of a safetensors file's metadata: JSON of all but the tensors


def read_archive(path: str | Path) -> dict[Any, Any]:
    """Read the dictionary that a checkpoint file holds, on the CPU.

    Args:
        path: a file of `torch.save`, or ending in .safetensors.

    Returns:
        Its tensors and plain values. For a safetensors file that this project wrote: the content of its
        metadata, and the tensors as "model".

    Raises:
        ValueError: the file does not exist, is truncated, fails its checksums or has another format;
            it holds Python objects, which would run code if they were read; or its content is not a
            dictionary.
        OSError: a file of torch.save cannot be read now, such as from a failing disk or without memory; it
            may be whole.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}")
    content = (
        _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch_archive(path)
    )
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004  the file is bad, not the argument's type
            f"{path} must hold a dictionary, it holds a {type(content).__name__}"
        )
    return content


def _read_torch_archive(path: Path) -> object:
    try:
        damage = _find_damage(path)
        with warnings.catch_warnings():
            # torch asks for bug reports if a file is not a checkpoint
            warnings.simplefilter("ignore")
            content = None if damage else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Raised for foreign objects and for random bytes alike; torch's own message says how to
        # switch the protection off, which no user should do with a file from elsewhere.
        raise ValueError(
            f"{path} is refused: it is not a file of torch.save, or it holds Python objects next to "
            "tensors and plain values. Nothing in it was run; save a state_dict instead"
        ) from None
    except Exception as error:  # damaged files fail in torch in many ways
        if (reason := _not_of_the_file(error, path)) is not None:
            raise OSError(f"cannot read {path}: {reason}") from error
        raise ValueError(f"{path} is damaged or unreadable ({type(error).__name__})") from None
    if damage:
        raise ValueError(f"{path} is damaged: {damage}")
    return content


def _not_of_the_file(error: Exception, path: Path) -> str | None:
    """Why a file that may be whole could not be read, such as a failing disk; None if it is damaged."""
    if isinstance(error, OSError):
        # In a damaged file, zipfile looks for bytes where no file has any.
        return None if error.errno == errno.EINVAL else error.strerror or str(error)
    if not zipfile.is_zipfile(path):  # its sizes have no checksum
        return None
    allocated = re.search(r"tried to allocate (\d+) bytes", str(error))
    # No tensor of a file takes more memory than the file, unless it lies about its size.
    fits = allocated is not None and int(allocated[1]) <= path.stat().st_size
    return "too little memory" if fits or isinstance(error, MemoryError) else None


def _find_damage(path: Path) -> str | None:
    """Damage of a zip file, which torch.load may not notice; None if it is whole or not a zip file."""
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            return None  # the format before torch 1.6
    if not zipfile.is_zipfile(path):
        return "it is truncated"
    with zipfile.ZipFile(path) as archive:
        # torch.save does not compress. A compressed member could unpack to any size.
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            return "it is compressed, as no file of torch.save is"
        member = archive.testzip()
    return f"the checksum of {member} does not hold" if member else None


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ValueError(
            f"{path}: reading .safetensors needs the safetensors package; "
            "install it with: pip install safetensors"
        ) from None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        described = json.loads(metadata[METADATA]) if METADATA in metadata else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    if described is None:
        return tensors
    if not isinstance(described, dict):
        raise ValueError(f"{path}: its metadata {METADATA!r} must be a JSON object")  # noqa: TRY004
    return described | {"model": tensors}
