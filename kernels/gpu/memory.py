"""What a forward keeps for its backward and its statistics: two pieces of memory, with views into them.

The host allocates two tensors and not twelve. Repeated launches (replay.py) take addresses, so that views
are made only where somebody reads them.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.gpu import layout, slots
from fusedface.kernels.interface.whole import Call


class Rows(NamedTuple):
    """Views of the first piece, float32: what statistics come from. A step's output holds it."""

    numbers: Tensor  # (12,), as in slots.py: among them the state that was used
    saved: Tensor  # (5, padded B), as in slots.py; with `Call.keep` a row more
    factors: Tensor  # (5, padded B), of the reduced loss's gradient (`reductions.write_factors`)
    stats: Tensor  # (5, B), as in NegativeStats


class Passes(NamedTuple):
    """Views of the second piece, bytes: what the passes over the classes need again."""

    known: Tensor  # (B,) int64: a class, or -1
    flags: Tensor  # int8 (`rows.flags_kernel`)
    x: Tensor  # unit rows and inverse lengths (`UnitRows`)
    inverse_x: Tensor
    w: Tensor  # unit class centres and inverse lengths, or empty where these lie apart
    inverse_w: Tensor
    exponentials: Tensor  # (padded B, padded C) with `Call.keep`, or (0, 0): see kept.py
    direction: Tensor  # (B, DIM), or (0, DIM)


def has_direction(dim: int, call: Call, needs_embeddings: bool) -> bool:
    """Whether the forward computes the direction of the gradient (B, D) in its own pass."""
    return not call.keep and layout.has_direction(dim, call.precision, needs_embeddings)


def num_of_rows(num_rows: int, keep: bool) -> int:
    """Numbers of the first piece."""
    num_padded = (slots.NUM_SAVED + keep + slots.MOST_FACTORS) * layout.padded_rows(num_rows)
    return slots.NUM_NUMBERS + num_padded + slots.NUM_STATS * num_rows


def rows_of(piece: Tensor, num_rows: int, keep: bool) -> Rows:
    """Views of the first piece."""
    num_saved, num_padded = slots.NUM_SAVED + keep, layout.padded_rows(num_rows)
    sizes = (slots.NUM_NUMBERS, num_saved * num_padded, slots.MOST_FACTORS * num_padded)
    numbers, saved, factors, stats = piece.split((*sizes, slots.NUM_STATS * num_rows))
    return Rows(
        numbers, saved.view(num_saved, -1), factors.view(slots.MOST_FACTORS, -1),
        stats.view(slots.NUM_STATS, num_rows),
    )  # fmt: skip


def bytes_of_passes(
    num_rows: int, num_classes: int, dim: int, call: Call, with_direction: bool, with_w: bool
) -> int:
    """Bytes of the second piece, for embeddings (B, D) and C classes."""
    parts = _parts(num_rows, num_classes, dim, call, with_direction, with_w)
    return sum(layout.aligned_bytes(*part) for part in parts)


def passes_of(
    piece: Tensor, num_rows: int, num_classes: int, dim: int, call: Call, with_w: bool
) -> Passes:
    """Views of the second piece; a direction, which lies last, is there if it fits."""
    fits = len(piece) == bytes_of_passes(num_rows, num_classes, dim, call, True, with_w)
    parts = _parts(num_rows, num_classes, dim, call, fits, with_w)
    ends = [*itertools.accumulate(layout.aligned_bytes(*part) for part in parts)]
    views = []
    for (shape, dtype), begin in zip(parts, [0, *ends], strict=False):
        size = math.prod(shape) * dtype.itemsize
        views.append(piece[begin : begin + size].view(dtype).view(shape))
    return Passes(*views)


def _parts(
    num_rows: int, num_classes: int, dim: int, call: Call, with_direction: bool, with_w: bool
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes of `Passes`, in order."""
    padded_rows, padded_dim = layout.padded_rows(num_rows), layout.padded_dim(dim, call.precision)
    padded_classes = layout.padded_classes(num_classes) if with_w else 0
    operand = layout.operands(call.precision).dtype
    return [
        ((num_rows,), torch.int64),
        (layout.flags_shape(num_rows, num_classes), torch.int8),
        ((padded_rows, padded_dim), operand),
        ((padded_rows,), torch.float32),
        ((padded_classes, padded_dim), operand),
        ((padded_classes,), torch.float32),
        (layout.kept_shape(num_rows, num_classes, call.keep), operand),
        ((num_rows if with_direction else 0, padded_dim), torch.float32),
    ]
