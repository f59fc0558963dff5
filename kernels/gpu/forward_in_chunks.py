"""The forward of the primitive without unit rows of all class centres: a chunk of them at a time.

The results are those of `forward.forward` to rounding, because sums are added up in another order. This
order is fixed. Everything here depends only on shapes; nothing waits for the device.
"""

from torch import Tensor

from fusedface.kernels.gpu import chunk_sums, launch, layout
from fusedface.kernels.gpu import forward as of_all
from fusedface.kernels.gpu.arguments import Numbers, UnitRows
from fusedface.kernels.gpu.class_chunks import in_chunks
from fusedface.kernels.gpu.forward import Forward, Sums


class Turns:
    """Memory for the unit rows of up to `size` class centres, which all chunks use in turn."""

    def __init__(self, weight: Tensor, size: int, precision: str) -> None:
        self._precision = precision
        self._memory = of_all.empty_unit_rows(weight, precision, layout.padded_classes(size))

    def unit_rows(self, weight: Tensor) -> UnitRows:
        """Those of a chunk (K, D), in place of those of the chunk before."""
        num_padded = layout.padded_classes(len(weight))
        unit = UnitRows(*(tensor[:num_padded] for tensor in self._memory))
        of_all.fill_unit_rows(unit, weight, self._precision)
        return unit


def forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    threshold: Tensor,
    linear: Tensor,
    numbers: Numbers,
    needs_embeddings: bool,
    size: int,
) -> Forward:
    """See `forward.forward`; `w` is empty. `size` is the number of classes in a chunk."""
    num_rows, dim = embeddings.shape
    with launch.on_device(embeddings.device):
        x = of_all.unit_rows(embeddings, numbers.precision, layout.padded_rows(num_rows))
        flags = of_all.tile_flags(labels, len(weight))
        cos_y, _ = of_all.target_cosine(embeddings, weight, labels)
        none = of_all.empty_unit_rows(weight, numbers.precision, 0)
        with_direction = layout.has_direction(dim, numbers.precision, needs_embeddings)
        sums = Sums(x, none, labels, threshold, linear, flags, len(weight), numbers, with_direction)
        so_far = _SoFar(linear, num_rows, x.rows.shape[1], with_direction)
        turns = Turns(weight, min(size, len(weight)), numbers.precision)
        for chunk in in_chunks(weight, labels, flags, size):
            part = sums.of_chunk(turns.unit_rows(chunk.weight), chunk)
            so_far.add(*part.over_classes())
        return Forward(
            cos_y, *sums.over_splits(so_far.totals, so_far.weighted, weight), x, none, flags
        )


class _SoFar:
    """The sums over the chunks so far, as those of one split: totals (6, 1, B), weighted (1, B, DIM)."""

    def __init__(self, linear: Tensor, num_rows: int, dim: int, with_direction: bool) -> None:
        self.totals = linear.new_empty(6, 1, num_rows)
        self.weighted = linear.new_empty(int(with_direction), num_rows, dim)
        self._is_later = False

    def add(self, totals: Tensor, weighted: Tensor) -> None:
        """Add those of the next chunk, as `Sums.over_classes` returns them."""
        _, num_splits, num_rows = totals.shape
        dim = weighted.shape[2]
        launch.start(
            chunk_sums.add_chunk_kernel, num_rows,
            totals, weighted, self.totals, self.weighted, num_rows, num_splits, int(self._is_later),
            DIM=dim, WITH_DIRECTION=len(weighted) > 0, BLOCK_S=layout.power_of_2(num_splits),
            BLOCK_D=layout.power_of_2(dim),
        )  # fmt: skip
        self._is_later = True
