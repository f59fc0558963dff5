"""Tile shapes that ship, best first, for each architecture.

Each was compiled for every architecture, precision and kind of N it is listed for, without a spilled
register and within the shared memory (tests/kernels/gpu/test_aot.py prints the table). The order is
reasoned (docs/performance.md), not yet measured; `tuning.tune` measures.
"""

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from fusedface.kernels.gpu.layout import OPERANDS


@dataclass(frozen=True)
class Tile:
    """Tile shape and launch parameters of one kernel; a block of 0 is one the kernel has not."""

    block_b: int = 0
    block_c: int = 0
    block_d: int = 0
    block_k: int = 0
    num_warps: int = 4
    num_stages: int = 2
    max_registers: int = 0  # of a thread, held by the compiler; 0: its own choice
    programs: int = 1  # a multiprocessor has room for: test_aot.py holds the compiled kernel to it

    def blocks(self) -> dict[str, int]:
        """The constexpr arguments BLOCK_*."""
        sizes = {"B": self.block_b, "C": self.block_c, "D": self.block_d, "K": self.block_k}
        return {f"BLOCK_{name}": size for name, size in sizes.items() if size}


class Limits(NamedTuple):
    """Architecture (a key of the tables) and bytes of shared memory that one program may have."""

    architecture: str
    shared_memory: int


# What a program may have on the data-centre GPU of each architecture.
SHARED_MEMORY = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}

# The blocks a kernel has, in the order of the tables below.
BLOCKS = {
    "flash": ("block_b", "block_c"),
    "centres": ("block_b", "block_c"),
    "lse": ("block_b", "block_c", "block_k"),
    "coefficients": ("block_b", "block_c", "block_k"),
    "embedding_product": ("block_b", "block_d", "block_k"),
    "centre_product": ("block_c", "block_d", "block_k"),
}

# Kernels that hold whole rows, by (kernel, operand, largest DIM): "blocks w num_warps s num_stages",
# then "r max_registers" and "p programs" where they are not 0 and 1.
NARROW = {
    ("flash", "half", 128): {
        "sm_80": "64x64w4s2p2 64x64w8s2 64x32w4s3p2",
        "sm_90": "64x64w4s3r168p3 64x64w4s3p2 64x64w4s2p2 128x64w8s3",
        "sm_100": "64x64w4s3p2 128x64w8s3 64x64w8s2",
        "gfx942": "64x64w4s2p2 64x32w4s3p2",
    },
    # The running maximum takes registers: with three programs to a multiprocessor it would spill.
    ("flash", "float16", 128): {
        "sm_80": "64x64w4s2p2 64x64w8s2 64x32w4s3p2",
        "sm_90": "64x64w4s3p2 64x64w4s2p2 128x64w8s3",
        "sm_100": "64x64w8s2 64x32w4s3p2",
        "gfx942": "64x64w4s2p2 64x32w4s3p2",
    },
    ("flash", "half", 256): {
        "sm_80": "64x64w8s2 32x64w8s2p2",
        "sm_90": "128x64w8s2 64x32w4s2p2",
        "sm_100": "64x64w8s2 64x32w4s2p2",
        "gfx942": "64x32w4s2 32x64w4s2",
    },
    # In float16 the carried power of two takes the registers that 128x64 would need.
    ("flash", "float16", 256): {
        "sm_80": "64x64w8s2 32x64w8s2",
        "sm_90": "128x32w8s3 64x32w4s3",
        "sm_100": "64x64w8s2",
        "gfx942": "64x32w4s2 32x64w4s2",
    },
    ("flash", "tf32", 128): {
        "sm_80": "64x64w8s2 64x32w4s2p2",
        "sm_90": "128x32w8s2 64x32w4s2p2",
        "sm_100": "128x32w8s2 64x64w8s2 64x32w4s2p2",
        "gfx942": "64x32w4s2 32x32w4s2",
    },
    ("centres", "half", 128): {
        "sm_80": "64x64w4s2p3 64x64w8s2p2",
        "sm_90": "64x64w4s3r168p3 64x64w4s3p2 64x64w4s2p2",
        "sm_100": "64x64w8s2 128x64w8s2 64x32w4s2",
        "gfx942": "64x64w4s2 64x32w4s2",
    },
    ("centres", "half", 256): {
        "sm_80": "64x64w8s2 64x32w4s2",
        "sm_90": "128x64w8s2 64x32w4s2",
        "sm_100": "64x64w8s2",
        "gfx942": "64x64w4s2 64x32w4s2",
    },
    ("centres", "tf32", 128): {
        "sm_80": "64x64w8s2 64x32w4s2",
        "sm_90": "128x32w8s2 64x64w8s2 64x32w4s2",
        "sm_100": "64x64w8s2",
        "gfx942": "64x32w4s2 32x32w4s2",
    },
}

# Kernels that read rows in slices, by (kernel, operand).
SLICED = {
    ("lse", "half"): {
        "sm_80": "128x64x64w8s3 64x64x64w4s3p2",
        "sm_90": "128x128x64w8s3 64x64x64w4s3p4",
        "sm_100": "128x64x64w8s3 64x64x32w4s2p3",
        "gfx942": "128x128x32w8s3 64x64x64w4s3",
    },
    ("lse", "tf32"): {
        "sm_80": "128x64x32w8s3 64x64x32w4s3",
        "sm_90": "128x128x32w8s3 64x64x64w4s3",
        "sm_100": "128x128x32w8s3 64x64x64w4s3",
        "gfx942": "128x128x32w8s3 64x64x32w4s2",
    },
    ("lse", "float32"): {
        "sm_80": "64x64x32w4s2",
        "sm_90": "128x128x32w8s3 64x64x32w4s2",
        "sm_100": "64x64x32w4s2",
        "gfx942": "128x128x32w8s3 64x64x32w4s2",
    },
    ("coefficients", "half"): {
        "sm_80": "128x128x64w8s3 64x64x64w4s3",
        "sm_90": "128x128x64w8s3 64x64x64w4s3p4",
        "sm_100": "128x128x64w8s3 128x64x64w4s4",
        "gfx942": "128x128x64w8s3 64x64x64w4s3",
    },
    ("coefficients", "tf32"): {
        "sm_80": "128x128x64w8s3 128x64x32w8s2",
        "sm_90": "128x64x32w8s2 64x64x32w4s2",
        "sm_100": "128x64x32w8s2 64x64x32w4s2",
        "gfx942": "64x64x64w4s3 128x64x32w8s2",
    },
    ("coefficients", "float32"): {
        "sm_80": "128x64x32w8s2 64x64x32w4s2",
        "sm_90": "128x64x32w8s2 64x64x32w4s2",
        "sm_100": "128x64x32w8s2 64x64x32w4s2",
        "gfx942": "64x64x64w4s3 128x64x32w8s2",
    },
    ("embedding_product", "half"): {
        "sm_80": "128x128x64w8s3 64x128x64w4s3",
        "sm_90": "128x128x64w8s3 64x128x64w4s3",
        "sm_100": "128x128x64w8s3 64x128x64w4s3",
        "gfx942": "128x128x32w8s2 64x128x64w4s3",
    },
    ("embedding_product", "tf32"): {
        "sm_80": "128x128x64w8s3 128x128x32w8s2",
        "sm_90": "128x128x64w8s3 128x128x32w8s2",
        "sm_100": "128x128x32w8s2 64x64x32w4s2",
        "gfx942": "128x128x32w8s2 64x64x32w4s2",
    },
    ("embedding_product", "float32"): {
        "sm_80": "64x64x32w4s2",
        "sm_90": "128x128x32w8s2 64x64x32w4s2",
        "sm_100": "128x128x32w8s2 64x64x32w4s2",
        "gfx942": "128x128x32w8s2 64x64x32w4s2",
    },
    ("centre_product", "half"): {
        "sm_80": "128x128x64w8s3 64x128x64w4s3",
        "sm_90": "128x128x64w8s3 64x128x64w4s3",
        "sm_100": "128x128x64w8s3 64x128x64w4s3 128x64x64w8s3",
        "gfx942": "128x128x32w8s2 64x128x64w4s3",
    },
    ("centre_product", "tf32"): {
        "sm_80": "128x128x64w8s3 128x128x32w8s2",
        "sm_90": "128x128x64w8s3 128x128x32w8s2",
        "sm_100": "64x64x32w4s2",
        "gfx942": "128x128x32w8s2 64x64x32w4s2",
    },
    ("centre_product", "float32"): {
        "sm_80": "64x64x32w4s2",
        "sm_90": "128x128x32w8s2 64x64x32w4s2",
        "sm_100": "64x64x32w4s2",
        "gfx942": "128x128x32w8s2 64x64x32w4s2",
    },
}

_SHAPE = re.compile(r"(\d+)x(\d+)(?:x(\d+))?w(\d+)s(\d+)(?:r(\d+))?(?:p(\d+))?")


def shipped(kernel: str, dim: int, precision: str, limits: Limits) -> tuple[Tile, ...]:
    """Tile shapes of `kernel` for rows of `dim` padded columns, best first.

    Those whose operands alone exceed the shared memory are left out; what does not fit for another
    reason is found when it is started (`launch.first_that_runs`).
    """
    tiles = (_tile(kernel, text, dim) for text in _table(kernel, dim, precision, limits).split())
    itemsize = OPERANDS[precision].dtype.itemsize
    fitting = (t for t in tiles if operand_bytes(t, dim, itemsize) <= limits.shared_memory)
    return tuple(dict.fromkeys(fitting))  # small rows make some of them equal


def operand_bytes(tile: Tile, dim: int, itemsize: int) -> int:
    """Shared memory that the operands of one product take at least: one stage of each."""
    depth = tile.block_k or dim
    sides = [side for side in (tile.block_b, tile.block_c, tile.block_d) if side]
    return sum(sides) * depth * itemsize


def _table(kernel: str, dim: int, precision: str, limits: Limits) -> str:
    operand = "half" if OPERANDS[precision].dtype.itemsize == 2 else precision
    if (kernel, operand) in SLICED:
        return SLICED[kernel, operand][limits.architecture]
    largest = min(d for k, o, d in NARROW if (k, o) == (kernel, operand) and d >= dim)
    key = (kernel, precision, largest)
    return NARROW[key if key in NARROW else (kernel, operand, largest)][limits.architecture]


def _tile(kernel: str, text: str, dim: int) -> Tile:
    match = _SHAPE.fullmatch(text)
    assert match, text
    *blocks, num_warps, num_stages, max_registers, programs = match.groups()
    sizes = dict(zip(BLOCKS[kernel], (int(block) for block in blocks if block), strict=True))
    tile = Tile(
        **sizes,
        num_warps=int(num_warps),
        num_stages=int(num_stages),
        max_registers=int(max_registers or 0),
        programs=int(programs or 1),
    )
    if kernel in ("lse", "coefficients"):
        return replace(tile, block_k=min(tile.block_k, dim))
    return replace(tile, block_d=min(tile.block_d, dim))
