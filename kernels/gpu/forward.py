"""The forward of the primitive on the host: which kernels run, on what.

Everything here depends only on shapes; nothing waits for the device.
"""

import copy
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from fusedface.kernels.gpu import (
    choice,
    chunk_sums,
    class_centres,
    combination,
    launch,
    layout,
    log_sum_exp,
    rows,
)
from fusedface.kernels.gpu.arguments import Numbers, UnitRows
from fusedface.kernels.gpu.class_chunks import Chunk, in_chunks
from fusedface.kernels.gpu.launch import Start
from fusedface.kernels.gpu.normalised import Turns, empty_unit_rows, unit_rows
from fusedface.kernels.gpu.tiles import Tile
from fusedface.kernels.interface.normalisation import min_norm

FLAGS_BLOCK = 32  # flags of a row block that one program writes


class Forward(NamedTuple):
    """The results of the forward, for its caller and for the backward; float32 except for the unit rows."""

    cos_y: Tensor  # (B,)
    lse: Tensor  # (B,)
    stats: Tensor  # (5, B), as in NegativeStats
    direction: Tensor  # (B, DIM), or (0, DIM)
    x: UnitRows
    w: UnitRows
    flags: Tensor  # int8, of tiles that hold a target or end the classes (`rows.flags_kernel`)


def forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    threshold: Tensor,
    linear: Tensor,
    numbers: Numbers,
    needs_embeddings: bool,
) -> Forward:
    """Cosines, log-sum-exp and statistics; shapes as in `Primitive`."""
    with launch.on_device(embeddings.device):
        x = unit_rows(embeddings, numbers.precision, layout.padded_rows(len(embeddings)))
        w = class_centres.unit_rows(weight, numbers.precision, training=needs_embeddings)
        if w is None:
            w = unit_rows(weight, numbers.precision, layout.padded_classes(len(weight)))
        flags = tile_flags(labels, len(weight))
        cos_y, _ = target_cosine(embeddings, weight, labels)
        with_direction = layout.has_direction(
            embeddings.shape[1], numbers.precision, needs_embeddings
        )
        sums = Sums(x, w, labels, threshold, linear, flags, len(weight), numbers, with_direction)
        return Forward(cos_y, *sums.over_splits(*sums.over_classes()), x, w, flags)


def forward_in_chunks(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    threshold: Tensor,
    linear: Tensor,
    numbers: Numbers,
    needs_embeddings: bool,
    size: int,
) -> Forward:
    """The same without unit rows of all class centres: of `size` class centres at a time; `w` is empty.

    The results are the same to rounding, because the sums are added up in another order, which is fixed.
    """
    num_rows, dim = embeddings.shape
    with launch.on_device(embeddings.device):
        x = unit_rows(embeddings, numbers.precision, layout.padded_rows(num_rows))
        flags = tile_flags(labels, len(weight))
        cos_y, _ = target_cosine(embeddings, weight, labels)
        none = empty_unit_rows(weight, numbers.precision, 0)
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


def target_cosine(embeddings: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """See `primitive.target_cosine`; float32."""
    num_rows, dim = embeddings.shape
    cos_y, norms = (embeddings.new_empty(num_rows, dtype=torch.float32) for _ in range(2))
    with launch.on_device(embeddings.device):
        launch.start(
            rows.target_cosine_kernel, num_rows,
            embeddings, weight, labels, cos_y, norms,
            dim, *embeddings.stride(), *weight.stride(), BLOCK_D=layout.power_of_2(dim),
        )  # fmt: skip
    return cos_y, norms


def tile_flags(labels: Tensor, num_classes: int) -> Tensor:
    """Which tiles need a mask: see `rows.flags_kernel`."""
    flags = labels.new_empty(layout.flags_shape(len(labels), num_classes), dtype=torch.int8)
    launch.start(
        rows.flags_kernel, num_flag_programs(flags),
        labels, flags, len(labels), num_classes, flags.shape[1], BLOCK=FLAGS_BLOCK,
    )  # fmt: skip
    return flags


def num_flag_programs(flags: Tensor) -> int:
    """Programs that write all flags."""
    row_blocks, num_flags = flags.shape
    return row_blocks * layout.ceil_div(num_flags, FLAGS_BLOCK)


class Sums:
    """The sums over the classes: kernel over (row blocks, splits), then over the splits."""

    def __init__(
        self,
        x: UnitRows,
        w: UnitRows,
        labels: Tensor,
        threshold: Tensor,
        linear: Tensor,
        flags: Tensor,
        num_classes: int,
        numbers: Numbers,
        with_direction: bool,
        kept: Tensor | None = None,
    ) -> None:
        self._kept = kept  # (padded B, padded C), filled with exponentials for the backward
        self._x, self._w, self._flags = x.rows, w.rows, flags
        self._per_row, self._linear = (labels, threshold), linear
        self._numbers, self._with_direction = numbers, with_direction
        self._rows, self._classes, self._dim = len(labels), num_classes, x.rows.shape[1]
        reference = numbers.reference(num_classes)
        # The second product's weights in float16 have too small a range for a fixed reference.
        fits = reference.fixed and not (with_direction and numbers.precision == "float16")
        self.reference = reference._replace(fixed=fits)
        self.constants: dict[str, Any] = {
            "DIM": self._dim,
            "MODE": numbers.mode,
            "SHIFT": 0 if fits else layout.operands(numbers.precision).shift,
            "FIXED": fits,
        }

    def of_chunk(self, w: UnitRows, chunk: Chunk) -> Self:
        """The same over some of the classes, relative to the same reference."""
        part = copy.copy(self)
        part._w, part._classes = w.rows, len(chunk.weight)
        part._per_row, part._flags = (chunk.labels, self._per_row[1]), chunk.flags
        return part

    def over_classes(self) -> tuple[Tensor, Tensor]:
        """Totals (6, splits, B) and weighted sums (splits, B, DIM) or (0, B, DIM)."""
        name = "flash" if self._with_direction else "lse" if self._kept is None else "lse_kept"
        shape = (self._rows, self._classes, self._dim)
        variant = (self._numbers.mode, self.reference.fixed)
        return choice.first_that_runs(
            name, shape, self._x.device, self._numbers.precision, self._over_classes, variant
        )

    def _over_classes(self, tile: Tile, start: Start) -> tuple[Tensor, Tensor]:
        programs = tile.programs * layout.processors(self._x.device)
        pitch = 0 if self._kept is None else self._kept.shape[1]
        splits = layout.split_classes(
            self._rows, max(self._classes, pitch), tile.block_b, tile.block_c, programs
        )
        totals = self._linear.new_empty(6, splits.num, self._rows)
        num_weighted = splits.num if self._with_direction else 0
        weighted = totals.new_empty(num_weighted, self._rows, self._dim)
        tensors = (self._x, self._w, *self._per_row, self._linear, self._flags, totals)
        sizes = (self._rows, self._classes, splits.num, splits.tiles, self._flags.stride(0))
        constants = self.constants | {"PRECISION": layout.operands(self._numbers.precision).dot}
        scalars = (*self._numbers.scalars, self.reference.top)
        grid = splits.blocks * splits.num
        if self._with_direction:
            start(
                log_sum_exp.flash_kernel, grid, *tensors, weighted, *sizes, *scalars,
                tile=tile, **constants,
            )  # fmt: skip
        else:
            start(
                log_sum_exp.lse_kernel, grid, *tensors, totals if self._kept is None else self._kept,
                *sizes, pitch, *scalars, tile=tile, KEEP=self._kept is not None, **constants,
            )  # fmt: skip
        return totals, weighted

    def over_splits(
        self, totals: Tensor, weighted: Tensor, centres: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """lse (B,), statistics (5, B) and direction (B, DIM) or (0, DIM).

        `centres` (C, D) are the class centres, where there are no unit rows of all of them.
        """
        num_splits = totals.shape[1]
        w = self._w if centres is None else centres
        lse, stats = totals.new_empty(self._rows), totals.new_empty(5, self._rows)
        direction = lse.new_empty(self._rows if self._with_direction else 0, self._dim)
        launch.start(
            combination.combine_kernel, self._rows,
            totals, weighted, self._x, w, *self._per_row, self._linear, lse, stats, direction,
            self._rows, self._classes, num_splits, w.shape[1], *w.stride(), min_norm(w.dtype),
            *self._numbers.scalars, self.reference.least_total,
            WITH_DIRECTION=self._with_direction, IS_UNIT=centres is None,
            PRECISION=layout.operands(self._numbers.precision).dot, BLOCK_S=layout.power_of_2(num_splits),
            BLOCK_D=layout.power_of_2(self._dim), **self.constants,
        )  # fmt: skip
        return lse, stats, direction


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
