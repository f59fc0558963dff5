"""The class centres in chunks: what a pass over some of them takes, as if these were all."""

from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.gpu import layout


class Chunk(NamedTuple):
    """Some of the classes."""

    first: int
    weight: Tensor
    """(K, D), rows [first, first + K) of all."""
    labels: Tensor
    """(B,), counted from `first`; classes of other chunks lie outside [0, K)."""
    flags: Tensor
    """Those of its tiles (`rows.flags_kernel`): columns of all flags."""


def in_chunks(weight: Tensor, labels: Tensor, flags: Tensor, size: int) -> list[Chunk]:
    """Chunks of `size` classes, a multiple of FLAG_CLASSES; the last one may be smaller."""
    firsts = torch.arange(0, len(weight), size, device=labels.device)
    # With padding the rows of all chunks are aligned alike, so that one compiled kernel serves them.
    counted = labels.new_empty(len(firsts), layout.padded_rows(len(labels)))[:, : len(labels)]
    torch.sub(labels, firsts[:, None], out=counted)
    return [
        Chunk(
            first,
            weight[first : first + size],
            counted[i],
            flags[:, first // layout.FLAG_CLASSES :],
        )
        for i, first in enumerate(range(0, len(weight), size))
    ]
