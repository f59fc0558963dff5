"""What a checkpoint file holds, and how its tensors fit a backbone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedface.models.preprocessing import Preprocessing

MAX_LISTED = 8  # names of each kind in an error message


@dataclass(frozen=True)
class Contents:
    """A file's tensors under its own names, and what it says about itself."""

    layout: str
    tensors: dict[str, Tensor]
    names: dict[str, str] | None = None  # file's name -> ours; None: they are the same
    config: dict[str, Any] | None = None
    preprocessing: Preprocessing | None = None
    step: int | None = None


class Match(NamedTuple):
    """How a file's tensors fit a backbone."""

    state: dict[str, Tensor]
    """The tensors that fit, under our names."""
    differences: dict[str, list[str]]
    """The tensors that do not fit, by kind, under the file's names; empty kinds are left out."""


def match(expected: Mapping[str, Tensor], contents: Contents) -> Match:
    """Compare a file's tensors with the names and shapes of `expected`."""
    names = contents.names or {key: key for key in expected}
    state: dict[str, Tensor] = {}
    kinds = ("missing", "unexpected", "of another shape", "of another type")
    differences: dict[str, list[str]] = {kind: [] for kind in kinds}
    found = {names[key]: key for key in contents.tensors if names.get(key) in expected}
    differences["unexpected"] = [key for key in contents.tensors if names.get(key) not in expected]
    theirs = {ours: key for key, ours in names.items()}
    for ours, want in expected.items():
        if ours not in found:
            differences["missing"].append(theirs.get(ours, ours))
            continue
        key = found[ours]
        tensor = contents.tensors[key]
        if tensor.shape != want.shape:
            sizes = f"{tuple(tensor.shape)} instead of {tuple(want.shape)}"
            differences["of another shape"].append(f"{key} {sizes}")
        elif tensor.is_floating_point() != want.is_floating_point():
            differences["of another type"].append(f"{key} {tensor.dtype} instead of {want.dtype}")
        else:
            state[ours] = tensor
    return Match(state, {kind: keys for kind, keys in differences.items() if keys})


def is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is dense, and its memory holds as many numbers as its shape says.

    A file of a few bytes may give one number with strides of 0, whose copy would take any memory.
    """
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()


def listed(names: list[str]) -> str:
    """The first few of many names."""
    rest = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")
