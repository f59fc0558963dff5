"""Launches recorded on tensors without data, and compiled ahead of time for a GPU that is not there.

The launches are those the schedule makes, so what is compiled here is what would run.
"""

import contextlib
import functools
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fusedface.kernels import HeadOptions
from fusedface.kernels.gpu import backward, choice, forward, layout, whole
from fusedface.kernels.gpu import launch as launching
from fusedface.kernels.gpu.arguments import Numbers
from fusedface.kernels.gpu.loss_operators import NUM_RESULTS
from fusedface.kernels.gpu.tiles import SHARED_MEMORY, Limits, shipped

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
MULTIPROCESSORS = 132
# The tables were made with this compiler, and with it nothing in them spills. Others place registers
# differently: there `choice.first_that_runs` passes over what spills, and something must be left.
NONE_SPILLS = triton.__version__.startswith("3.7.")
POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Launch:
    kernel: object
    name: str
    grid: int
    args: tuple
    constants: dict = field(hash=False)
    tile: object = None


@functools.cache
def stand_in(dtype):
    return torch.empty(0, dtype=dtype)


@contextlib.contextmanager
def recorded(monkeypatch, target="sm_90", every_tile=False, holds=True):
    """Launches are noted in the list that this gives, as on `target`, instead of being made.

    Without `holds` other tensors stand for those that were given, whose memory is then freed as usual.
    """
    launches = []

    def start(kernel, grid, *args, tile=None, **constants):
        names = [p.name for p in kernel.params]
        constants |= tile.blocks() if tile else {}
        assert set(names[len(args) :]) == constants.keys()
        if not holds:
            args = tuple(stand_in(a.dtype) if isinstance(a, torch.Tensor) else a for a in args)
        launches.append(Launch(kernel, kernel.__name__, grid, args, constants, tile))

    def first_that_runs(name, shape, device, precision, body, variant=None):
        itemsize = layout.operands(precision).dtype.itemsize
        limits = Limits(target, SHARED_MEMORY[target])
        tiles = shipped(name, shape[2], precision, itemsize, limits)
        results = [body(tile, start) for tile in (tiles if every_tile else tiles[:1])]
        return results[0]

    with monkeypatch.context() as patch:
        patch.setattr(launching, "start", start)
        patch.setattr(launching, "load", lambda *args, **options: None)
        patch.setattr(choice, "first_that_runs", first_that_runs)
        patch.setattr(layout, "processors", lambda device: MULTIPROCESSORS)
        patch.setattr(torch.version, "hip", "6" if target == "gfx942" else None)
        yield launches


def record(
    num_rows, num_classes, dim, *, precision="bfloat16", square=1.0, reweights=True,
    target="sm_90", train=True, dtype=torch.float32, every_tile=False, monkeypatch,
):  # fmt: skip
    """The launches of a forward (and a backward) of the primitive on the `meta` device."""
    with recorded(monkeypatch, target, every_tile) as launches:
        run_on_meta(num_rows, num_classes, dim, precision, square, reweights, train, dtype)
    return launches


def record_whole(
    num_rows, num_classes, dim, margin, *, target="sm_90", precision="bfloat16", training=True,
    dtype=torch.float32, labels=torch.int64, of_rows=False, transposed=False, monkeypatch, **options,
):  # fmt: skip
    """The launches of a forward and a backward of a margin that has a form (margins/form.py).

    With `of_rows` the losses of the samples have a gradient too. `transposed`: the class centres are.
    """
    chosen = HeadOptions(margin=margin, **options)
    call = chosen.call(training, precision)
    with torch.device("meta"):
        x = torch.empty(num_rows, dim, dtype=dtype)
        w = torch.empty(num_classes, dim, dtype=dtype)
        w = w.new_empty(dim, num_classes).T if transposed else w
        y = torch.empty(num_rows, dtype=labels)
        state = [torch.empty(()) for _ in chosen.initial_state()]
        d_loss, d_losses = torch.empty(()), torch.empty(num_rows)
    choice.forget()
    with recorded(monkeypatch, target) as launches:
        out = whole.forward(x, w, y, state, margin.class_margins(x.device), call, True)
        whole.backward(
            x,
            w,
            out[NUM_RESULTS:],
            d_loss,
            d_losses if of_rows else None,
            call,
            True,
            True,
        )
    choice.forget()
    return launches


def run_on_meta(num_rows, num_classes, dim, precision, square, reweights, train, dtype):
    with torch.device("meta"):
        embeddings = torch.empty(num_rows, dim, dtype=dtype)
        weight = torch.empty(num_classes, dim, dtype=dtype)
        labels = torch.empty(num_rows, dtype=torch.int64)
        row, number = torch.empty(num_rows), torch.empty(())
    numbers = Numbers(64.0, square, 0.0, precision, reweights)
    out = forward.forward(embeddings, weight, labels, row, number, numbers, train)
    if train:
        saved = backward.Saved(embeddings, weight, labels, number, *out[3:])
        backward.backward(saved, row, out.lse, row, row, numbers, True, True)


def source(launch):
    """What Triton's launcher would compile for these arguments."""
    signature, constants, attrs = {}, {}, {}
    for i, param in enumerate(launch.kernel.params):
        if i >= len(launch.args):
            signature[param.name] = "constexpr"
            constants[(i,)] = launch.constants[param.name]
            continue
        value = launch.args[i]
        if isinstance(value, torch.Tensor):
            signature[param.name] = POINTERS[value.dtype]
            if not param.do_not_specialize_on_alignment:
                attrs[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[param.name] = "fp32"
        elif value == 1 and not param.do_not_specialize:
            signature[param.name] = "constexpr"
            constants[(i,)] = 1
        else:
            signature[param.name] = "i32" if value < 2**31 else "i64"
            if value % 16 == 0 and not param.do_not_specialize:
                attrs[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attrs)


def compiled(launch, target):
    tile = launch.tile
    options = {"enable_fp_fusion": True}
    if tile:
        options |= {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
        if tile.max_registers and target != "gfx942":
            options["maxnreg"] = tile.max_registers
    return triton.compile(source(launch), target=TARGETS[target], options=options)


@dataclass(frozen=True)
class Usage:
    """Registers and bytes spilled of a thread, shared memory of a program, instructions of the products,
    whether memory is updated by atomic instructions, and whether products wait for one another."""

    registers: int
    spilled: int
    shared: int
    products: str
    atomics: bool
    serial: bool = False

    def programs(self, target, num_warps):
        """That a multiprocessor of an NVIDIA GPU has room for."""
        registers = -(-self.registers // 8) * 8 * 32 * num_warps
        return min(
            65_536 // registers,
            (SHARED_MEMORY[target] + 1024) // (self.shared + 1024),
            64 // num_warps,
        )


def usage(launch, target) -> Usage:
    binary = compiled(launch, target)
    if target == "gfx942":
        return amd_usage(binary)
    registers, spilled = nvidia_resources(binary.asm["cubin"])
    tensor_cores = ("tcgen05.mma", "wgmma.mma_async", "mma.sync")
    products = " and ".join(name for name in tensor_cores if name in binary.asm["ptx"])
    scalar = "fma.rn.f32" if "fma.rn.f32" in binary.asm["ptx"] else "none"
    atomics = re.search(r"^\s*(@\S+ )?(atom|red)\.", binary.asm["ptx"], re.MULTILINE) is not None
    return Usage(
        registers, spilled, binary.metadata.shared, products or scalar, atomics,
        "wgmma.mma_async" in products and products_wait(binary.asm["cubin"]),
    )  # fmt: skip


def products_wait(cubin):
    """Whether ptxas made each product on sm_90 wait for the one before (its warnings C7510 to C7520).

    Where D is 16 a whole product may be one instruction, and then none is before it.
    """
    names = [name for _, _, name in machine_code(cubin)]
    products = sum(name.startswith("HGMMA") for name in names)
    return 1 < products <= sum(name.startswith("WARPGROUP.DEPBAR") for name in names)


INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);")


def machine_code(cubin):
    """(address, target of a jump or None, name) of every instruction."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = subprocess.run(
            [nvidia_tool("nvdisasm"), "-c", path], capture_output=True, text=True, check=True
        ).stdout
    found, labels, waiting = [], {}, []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            waiting.append(label[1])
        elif instruction := INSTRUCTION.search(line):
            address = int(instruction[1], 16)
            labels |= dict.fromkeys(waiting, address)
            waiting = []
            found.append((address, instruction[2], instruction[3]))
    return [
        (address, labels.get(jump[0]) if (jump := re.findall(r"\.L_x_\d+", rest)) else None, name)
        for address, name, rest in found
    ]


def instructions_of_loops(cubin):
    """Of each innermost loop, what a turn executes that skips the code behind a flag, by name."""
    code = machine_code(cubin)
    loops = [(to, at) for at, to, name in code if name == "BRA" and to is not None and to < at]
    found = []
    for first, last in loops:
        if any((first, last) != other and first <= other[0] <= other[1] <= last for other in loops):
            continue
        skipped = [
            (at, to) for at, to, name in code
            if name == "BRA" and to is not None and first <= at < to <= last
        ]  # fmt: skip
        found.append([
            name for at, _, name in code
            if first <= at <= last and not any(begin < at < end for begin, end in skipped)
        ])  # fmt: skip
    return found


def nvidia_resources(cubin):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = subprocess.run(
            [nvidia_tool("cuobjdump"), "-res-usage", path],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    return int(registers), int(stack)


@functools.cache
def nvidia_tool(name):
    import triton.backends.nvidia

    return os.fspath(Path(triton.backends.nvidia.__path__[0]) / "bin" / name)


def amd_usage(binary):
    text = binary.asm["amdgcn"]
    number = lambda key: int(re.search(rf"\.{key}:\s+(\d+)", text).group(1))  # noqa: E731
    product = "v_mfma" if "v_mfma" in text else "none"
    return Usage(
        number("vgpr_count"), 4 * number("vgpr_spill_count"), binary.metadata.shared, product,
        "_atomic_" in text,
    )  # fmt: skip
