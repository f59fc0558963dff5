"""Executed PTX instructions by class, of each kernel and tile shape.

PTX is not yet machine code: moves mostly vanish, 64-bit integer work doubles, the rest maps one to one,
nearly.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ptx_emulator.driver import Run
from ptx_emulator.machine import WARP
from ptx_emulator.ptx import Instruction

CLASSES = (
    "mma_sync", "wgmma", "mufu", "fma", "add_mul", "minmax", "setp_f", "setp_i", "selp", "cvt", "int",
    "mov", "shfl", "ld_shared", "ldmatrix", "st_shared", "ld_global", "cp_async", "cp_tensor",
    "st_global", "barrier", "wait", "branch", "other",
)  # fmt: skip
MUFU = {"ex2", "lg2", "rcp", "rsqrt", "sqrt", "div", "tanh", "sin", "cos"}
FLOATING = ("f32", "f16", "bf16", "f64", "f16x2", "bf16x2")
INTEGER = {
    "add", "sub", "mul", "mad", "shl", "shr", "and", "or", "xor", "not", "bfe", "bfi", "lop3", "prmt",
    "shf", "min", "max", "neg", "abs", "div", "rem", "popc", "cvta",
}  # fmt: skip


def class_of(instruction: Instruction) -> str:
    """One of `CLASSES`."""
    name, modifiers = instruction.name, instruction.modifiers
    floating = bool(modifiers) and modifiers[-1] in FLOATING
    if name == "mma":
        return "mma_sync"
    if name == "wgmma" and "mma_async" in modifiers:
        return "wgmma"
    if name in ("bar", "barrier"):
        return "barrier"
    if name == "cp" and "tensor" in modifiers:
        return "cp_tensor"
    if name == "cp" and modifiers[1] in ("ca", "cg"):
        return "cp_async"
    if name in ("cp", "wgmma", "fence", "mbarrier", "elect"):
        return "wait"
    if name in MUFU and (floating or name not in INTEGER):
        return "mufu"
    if floating and name in ("fma", "mad"):
        return "fma"
    if floating and name in ("add", "sub", "mul", "neg", "abs"):
        return "add_mul"
    if floating and name in ("min", "max"):
        return "minmax"
    if name == "setp":
        return "setp_f" if floating else "setp_i"
    if name in ("ld", "st", "atom", "red"):
        space = next(
            (m.split("::")[0] for m in modifiers if m.split("::")[0] in ("shared", "global")), None
        )
        return f"{'ld' if name == 'ld' else 'st'}_{space}" if space else "other"
    names = {"ldmatrix": "ldmatrix", "stmatrix": "st_shared", "bra": "branch", "ret": "branch"}
    if name in ("selp", "cvt", "mov", "shfl") or name in names:
        return names.get(name, name)
    return "int" if name in INTEGER else "other"


class Kernel(NamedTuple):
    """A kernel as it was compiled."""

    name: str
    blocks: str  # such as "B64xC32"
    num_warps: int
    num_stages: int


Profile = dict[Kernel, Counter[str]]  # instructions of warps, by class


def profile(runs: Iterable[Run]) -> Profile:
    """What `runs` executed."""
    found: Profile = {}
    for run in runs:
        sizes = {k[6:]: size for k, size in run.constants.items() if k.startswith("BLOCK_")}
        blocks = "x".join(f"{name}{size}" for name, size in sizes.items())
        counter = found.setdefault(
            Kernel(run.name, blocks, run.num_warps, run.num_stages), Counter()
        )
        for instruction, count in zip(run.program.kernel.instructions, run.counts, strict=True):
            counter[class_of(instruction)] += count
    return found


def per_item(counter: Counter[str], num_items: int) -> dict[str, float]:
    """Instructions of threads for each of `num_items` (logits), by class, with their "total"."""
    shares = {name: counter[name] * WARP / num_items for name in CLASSES}
    return shares | {"total": sum(shares.values())}


def lines_not_run(runs: Iterable[Run]) -> list[str]:
    """Lines of Python of which no instruction ran, "kernel: file:line", whichever launch of a program.

    A loop that always turns leaves instructions that never run: a line counts as run with one of its own.
    """
    counts: dict[str, dict[str, int]] = {}
    for run in runs:
        of_lines = counts.setdefault(f"{run.name} {id(run.program)}", {})
        for instruction, count in zip(run.program.kernel.instructions, run.counts, strict=True):
            of_lines[instruction.source] = of_lines.get(instruction.source, 0) + count
    return sorted(
        f"{kernel.split()[0]}: {line}"
        for kernel, of_lines in counts.items()
        for line, count in of_lines.items()
        if not count and not line.endswith(":0")  # the compiler's own
    )


def growth(less: Profile, more: Profile) -> Profile:
    """What a larger problem executed on top of a smaller one: loops, without what surrounds them."""
    return {
        kernel: Counter({name: more[kernel][name] - counter[name] for name in more[kernel]})
        for kernel, counter in less.items()
        if kernel in more
    }
