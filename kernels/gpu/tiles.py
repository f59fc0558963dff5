"""Tile shapes that ship, best first, for each architecture.

Each was compiled for every architecture, precision and kind of N it is listed for, without a spilled
register and within the shared memory (tests/kernels/gpu/test_aot.py prints the table). The order is
derived (docs/performance.md), not yet measured; `tuning.tune` measures.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class Tile:
    """Tile shape and launch parameters of one kernel; 0 for blocks that the kernel does not have."""

    block_b: int = 0
    block_c: int = 0
    block_d: int = 0
    block_k: int = 0
    num_warps: int = 4
    num_stages: int = 2
    max_registers: int = 0  # limit per thread, for the compiler; 0: its own choice
    programs: int = 1  # a multiprocessor has room for: test_aot.py holds the compiled kernel to it

    def blocks(self) -> dict[str, int]:
        """The constexpr arguments BLOCK_*."""
        sizes = {"B": self.block_b, "C": self.block_c, "D": self.block_d, "K": self.block_k}
        return {f"BLOCK_{name}": size for name, size in sizes.items() if size}

    def options(self) -> dict[str, int]:
        """All launch options of a kernel."""
        warps = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        if self.max_registers and not torch.version.hip:
            warps["maxnreg"] = self.max_registers
        return self.blocks() | warps


class Limits(NamedTuple):
    """Architecture (a key of the tables) and bytes of shared memory that one program may have."""

    architecture: str
    shared_memory: int


# The limits of a program on the data-centre GPU of each architecture.
SHARED_MEMORY = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}

# The blocks a kernel has, in the order of the tables below.
BLOCKS = {
    "flash": ("block_b", "block_c"),
    "centres": ("block_b", "block_c"),
    "lse": ("block_b", "block_c", "block_k"),
    "coefficients": ("block_b", "block_c", "block_k"),
    "products": ("block_b", "block_c", "block_d", "block_k"),
    "lse_kept": ("block_b", "block_c", "block_k"),
    "kept": ("block_b", "block_c", "block_d", "block_k"),
}

# Blocks, num_warps, num_stages, then programs and max_registers where they are not 1 and 0.
Shapes = dict[str, list[tuple[int, ...]]]

# Kernels that hold whole rows, by (kernel, operand, largest DIM).
NARROW: dict[tuple[str, str, int], Shapes] = {
    ("flash", "half", 128): {
        "sm_80": [(64, 64, 4, 2, 2), (64, 64, 8, 2), (64, 32, 4, 3, 2)],
        "sm_90": [(64, 64, 4, 3, 3, 168), (64, 64, 4, 3, 2), (64, 64, 4, 2, 2), (128, 64, 8, 3)],
        "sm_100": [(64, 64, 4, 3, 2), (128, 64, 8, 3), (64, 64, 8, 2)],
        "gfx942": [(64, 64, 4, 2, 2), (64, 32, 4, 3, 2)],
    },
    # The running maximum takes registers: with three programs to a multiprocessor it would spill.
    ("flash", "float16", 128): {
        "sm_80": [(64, 64, 4, 2, 2), (64, 64, 8, 2), (64, 32, 4, 3, 2)],
        "sm_90": [(64, 64, 4, 3, 2), (64, 64, 4, 2, 2), (128, 64, 8, 3)],
        "sm_100": [(64, 64, 8, 2), (64, 32, 4, 3, 2)],
        "gfx942": [(64, 64, 4, 2, 2), (64, 32, 4, 3, 2)],
    },
    ("flash", "half", 256): {
        "sm_80": [(64, 64, 8, 2), (32, 64, 8, 2, 2)],
        "sm_90": [(128, 64, 8, 2), (64, 32, 4, 2, 2)],
        "sm_100": [(64, 64, 8, 2), (64, 32, 4, 2, 2)],
        "gfx942": [(64, 32, 4, 2), (32, 64, 4, 2)],
    },
    # In float16 the carried power of two takes the registers that 128x64 would need.
    ("flash", "float16", 256): {
        "sm_80": [(64, 64, 8, 2), (32, 64, 8, 2)],
        "sm_90": [(128, 32, 8, 3), (64, 32, 4, 3)],
        "sm_100": [(64, 64, 8, 2)],
        "gfx942": [(64, 32, 4, 2), (32, 64, 4, 2)],
    },
    ("flash", "tf32", 128): {
        "sm_80": [(64, 64, 8, 2), (64, 32, 4, 2, 2)],
        "sm_90": [(128, 32, 8, 2), (64, 32, 4, 2, 2)],
        "sm_100": [(128, 32, 8, 2), (64, 64, 8, 2), (64, 32, 4, 2, 2)],
        "gfx942": [(64, 32, 4, 2), (32, 32, 4, 2)],
    },
    ("centres", "half", 128): {
        "sm_80": [(64, 64, 4, 2, 3), (64, 64, 8, 2)],
        "sm_90": [(64, 64, 4, 3, 3, 168), (64, 64, 4, 3, 2), (64, 64, 4, 2, 2), (64, 128, 8, 2)],
        "sm_100": [(64, 64, 8, 2), (128, 64, 8, 2), (64, 32, 4, 2)],
        "gfx942": [(64, 64, 4, 2), (64, 32, 4, 2)],
    },
    ("centres", "half", 256): {
        "sm_80": [(64, 64, 8, 2), (64, 32, 4, 2)],
        "sm_90": [(128, 64, 8, 2), (64, 32, 4, 2)],
        "sm_100": [(64, 64, 8, 2)],
        "gfx942": [(64, 64, 4, 2), (64, 32, 4, 2)],
    },
    ("centres", "tf32", 128): {
        "sm_80": [(64, 64, 8, 2), (64, 32, 4, 2)],
        "sm_90": [(64, 64, 8, 2), (128, 32, 8, 2), (64, 32, 4, 2)],
        "sm_100": [(64, 64, 8, 2)],
        "gfx942": [(64, 32, 4, 2), (32, 32, 4, 2)],
    },
}

# Kernels that read rows in slices, by (kernel, operand).
SLICED: dict[tuple[str, str], Shapes] = {
    ("lse", "half"): {
        "sm_80": [(128, 64, 64, 8, 3), (128, 64, 64, 8, 2), (64, 64, 64, 4, 3, 2)],
        "sm_90": [(128, 256, 64, 8, 4), (128, 128, 64, 8, 3), (64, 64, 64, 4, 3, 4)],
        "sm_100": [(128, 64, 64, 8, 3), (64, 64, 32, 4, 2, 3)],
        "gfx942": [(128, 128, 32, 8, 3), (64, 64, 64, 4, 3)],
    },
    ("lse", "tf32"): {
        "sm_80": [(128, 64, 32, 8, 3), (128, 64, 32, 8, 2), (64, 64, 32, 4, 3)],
        "sm_90": [(128, 128, 32, 8, 3), (64, 64, 64, 4, 3)],
        "sm_100": [(128, 128, 32, 8, 3), (64, 64, 32, 4, 3)],
        "gfx942": [(128, 128, 32, 8, 3), (64, 64, 32, 4, 2)],
    },
    ("lse", "float32"): {
        "sm_80": [(64, 64, 32, 4, 2)],
        "sm_90": [(128, 128, 32, 8, 3), (64, 64, 32, 4, 2)],
        "sm_100": [(64, 64, 32, 4, 2)],
        "gfx942": [(128, 128, 32, 8, 3), (64, 64, 32, 4, 2)],
    },
    ("coefficients", "half"): {
        "sm_80": [(128, 128, 64, 8, 3), (64, 64, 64, 4, 3)],
        "sm_90": [(128, 256, 64, 8, 3), (128, 128, 64, 8, 3), (64, 64, 64, 4, 3, 4)],
        "sm_100": [(128, 128, 64, 8, 3), (128, 64, 64, 4, 4)],
        "gfx942": [(128, 128, 64, 8, 3), (64, 64, 64, 4, 3)],
    },
    ("coefficients", "tf32"): {
        "sm_80": [(128, 128, 64, 8, 3), (128, 64, 32, 8, 2)],
        "sm_90": [(128, 64, 32, 8, 2), (64, 64, 32, 4, 2)],
        "sm_100": [(128, 64, 32, 8, 2), (64, 64, 32, 4, 2)],
        "gfx942": [(64, 64, 64, 4, 3), (128, 64, 32, 8, 2)],
    },
    ("coefficients", "float32"): {
        "sm_80": [(128, 64, 32, 8, 2), (64, 64, 32, 4, 2)],
        "sm_90": [(128, 64, 32, 8, 2), (64, 64, 32, 4, 2)],
        "sm_100": [(128, 64, 32, 8, 2), (64, 64, 32, 4, 2)],
        "gfx942": [(64, 64, 64, 4, 3), (128, 64, 32, 8, 2)],
    },
    ("products", "half"): {
        "sm_80": [(128, 128, 128, 64, 8, 3), (64, 64, 128, 64, 4, 3)],
        "sm_90": [(128, 128, 256, 64, 8, 3), (128, 128, 128, 64, 8, 3), (64, 64, 128, 64, 4, 3)],
        "sm_100": [(128, 128, 128, 64, 8, 3), (64, 64, 128, 64, 4, 3)],
        "gfx942": [(128, 128, 128, 32, 8, 2), (64, 64, 128, 64, 4, 3)],
    },
    # The product for the class centres has whole rows of up to 512 columns.
    ("kept", "half"): {
        "sm_80": [(128, 64, 128, 32, 8, 3), (128, 32, 128, 32, 8, 3)],
        "sm_90": [(128, 64, 256, 64, 8, 3), (128, 32, 128, 64, 8, 2)],
        "sm_100": [(128, 32, 128, 32, 8, 3)],
        "gfx942": [(128, 64, 128, 32, 8, 2)],
    },
    ("lse_kept", "half"): {
        "sm_80": [(128, 64, 64, 8, 3)],
        "sm_90": [(128, 128, 64, 8, 3), (64, 64, 64, 4, 3)],
        "sm_100": [(128, 64, 64, 8, 3), (64, 64, 64, 4, 3)],
        "gfx942": [(128, 128, 32, 8, 3), (64, 64, 64, 4, 3)],
    },
    ("products", "tf32"): {
        "sm_80": [(128, 128, 128, 64, 8, 3), (128, 128, 128, 32, 8, 2)],
        "sm_90": [(128, 128, 128, 64, 8, 3), (128, 128, 128, 32, 8, 2)],
        "sm_100": [(64, 64, 64, 32, 4, 2)],
        "gfx942": [(128, 128, 128, 32, 8, 2), (64, 64, 64, 32, 4, 2)],
    },
    ("products", "float32"): {
        "sm_80": [(64, 64, 64, 32, 4, 2)],
        "sm_90": [(128, 128, 128, 32, 8, 2), (64, 64, 64, 32, 4, 2)],
        "sm_100": [(64, 64, 64, 32, 4, 2)],
        "gfx942": [(128, 128, 128, 32, 8, 2), (64, 64, 64, 32, 4, 2)],
    },
}


def shipped(
    kernel: str, dim: int, precision: str, itemsize: int, limits: Limits
) -> tuple[Tile, ...]:
    """Tile shapes of `kernel` for rows of `dim` padded columns of `itemsize` bytes, best first.

    Tile shapes whose operands exceed the shared memory are left out. Those that do not fit for another
    reason are found when they are started (`choice.first_that_runs`).
    """
    shapes = _table(kernel, dim, precision, itemsize)[limits.architecture]
    tiles = (_tile(kernel, shape, dim) for shape in shapes)
    fitting = (t for t in tiles if operand_bytes(t, dim, itemsize) <= limits.shared_memory)
    return tuple(dict.fromkeys(fitting))  # small rows make some of them equal


def operand_bytes(tile: Tile, dim: int, itemsize: int) -> int:
    """Shared memory that the operands of one product take at least: one stage of each."""
    depth = tile.block_k or dim
    sides = tile.block_b + tile.block_c
    if tile.block_d:  # two products, one after the other
        sides = max(tile.block_b, tile.block_c) + tile.block_d
    return sides * depth * itemsize


def _table(kernel: str, dim: int, precision: str, itemsize: int) -> Shapes:
    operand = "half" if itemsize == 2 else precision
    if (kernel, operand) in SLICED:
        return SLICED[kernel, operand]
    largest = min(d for k, o, d in NARROW if (k, o) == (kernel, operand) and d >= dim)
    key = (kernel, precision, largest)
    return NARROW[key if key in NARROW else (kernel, operand, largest)]


def _tile(kernel: str, shape: tuple[int, ...], dim: int) -> Tile:
    blocks = BLOCKS[kernel]
    sizes = dict(zip(blocks, shape, strict=False))
    if kernel in ("lse", "lse_kept", "coefficients"):
        sizes["block_k"] = min(sizes["block_k"], dim)
    elif "block_d" in sizes:
        sizes["block_d"] = min(sizes["block_d"], dim & -dim)  # which divides dim
    launch = ("num_warps", "num_stages", "programs", "max_registers")
    return Tile(**sizes, **dict(zip(launch, shape[len(blocks) :], strict=False)))
