"""What a launch passes to a kernel: tensors become regions of global memory, the rest numbers."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from ptx_emulator.memory import POISON, GlobalMemory, Region
from ptx_emulator.ptx import Kernel, PtxError
from ptx_emulator.tensor_maps import encoded

SCALARS = {
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "f32": np.float32,
    "f64": np.float64, "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64,
}  # fmt: skip


class Arguments:
    """Values in the order of the kernel's parameters, and the memory that they point to."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._regions: list[Region] = []
        self._owned: list[torch.Tensor] = []  # memory lives as long as the launch

    def add(self, name: str, value: Any) -> None:
        """A tensor on the CPU, or a number.

        Raises:
            PtxError: it is something else.
        """
        if isinstance(value, torch.Tensor):
            self._owned.append(value)
            value = self.point_to(name, value)
        elif value is None:
            value = 0
        elif not isinstance(value, bool | int | float):
            raise PtxError(f"argument {name!r}: {type(value).__name__} is not supported")
        self._values.append(value)

    def add_scratch(self, metadata: Any, num_programs: int) -> None:
        """The memory that the compiler asked for, poisoned; its parameters come last."""
        for kind in ("global_scratch", "profile_scratch"):
            size = getattr(metadata, f"{kind}_size") * num_programs
            if not size:
                self._values.append(0)
                continue
            alignment = getattr(metadata, f"{kind}_align")
            whole = torch.full((size + alignment,), POISON, dtype=torch.uint8)
            start = -whole.data_ptr() % alignment
            self.add(kind, whole[start : start + size])

    def by_parameter(self, kernel: Kernel) -> dict[str, np.generic]:
        """Numbers by the names of the kernel's parameters."""
        return {
            name: _number(value, kind)
            for (kind, name), value in zip(kernel.parameters, self._values, strict=True)
        }

    def memory(self, check_races: bool) -> GlobalMemory:
        """All that the arguments point to."""
        if check_races:
            for region in self._regions:
                region.check_races()
        return GlobalMemory(self._regions)

    def point_to(self, name: str, tensor: torch.Tensor) -> int:
        """The address by which a kernel knows `tensor`."""
        if tensor.device.type != "cpu":
            raise PtxError(
                f"argument {name!r} is on {tensor.device}, the emulator takes CPU tensors"
            )
        span = 0
        if tensor.numel():  # from the first element to the last
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            span = (sum((n - 1) * stride for n, stride in steps) + 1) * tensor.element_size()
        region = Region(len(self._regions), name, tensor.data_ptr(), span)
        self._regions.append(region)
        return region.address


def collect(signature: dict[str, Any], values: Iterable[Any], metadata: Any) -> Arguments:
    """Those of a launch; constants are compiled in, tuples are passed item by item.

    A tensor descriptor is a tensor map where the compiler asks for one, else what it is made of; sizes
    and strides follow in either case.
    """
    arguments = Arguments()
    maps = iter(getattr(metadata, "tensordesc_meta", None) or ())
    for (name, kind), value in zip(signature.items(), values, strict=True):
        _collect(arguments, name, kind, value, maps)
    return arguments


def _collect(arguments: Arguments, name: str, kind: Any, value: Any, maps: Iterator[Any]) -> None:
    if isinstance(kind, tuple):
        for i, (one_kind, one) in enumerate(zip(kind, value, strict=True)):
            _collect(arguments, f"{name}[{i}]", one_kind, one, maps)
    elif kind.startswith("tensordesc"):
        _collect_descriptor(arguments, name, value, next(maps, None))
    elif kind != "constexpr":
        arguments.add(name, value)


def _collect_descriptor(arguments: Arguments, name: str, value: Any, layout: Any) -> None:
    sizes = (*value.shape, *value.strides)
    rounds = getattr(value, "round_f32_to_tf32", None)  # Triton 3.6 has none
    if layout is None:
        flags = (value.padding == "nan", *([] if rounds is None else [rounds]))
        given = (value.base, *sizes, *flags, *sizes)
    elif rounds or layout["fp4_padded"]:
        raise PtxError(f"descriptor {name!r}: rounding and packed elements are not supported")
    else:
        address = arguments.point_to(name, value.base)
        given = (torch.from_numpy(_tensor_map(address, value, layout)), *sizes)
    for one in given:
        arguments.add(name, one)


def _tensor_map(address: int, value: Any, layout: Any) -> np.ndarray:
    """As the host makes it: dimensions from the innermost, strides in bytes."""
    sizes, strides = value.shape[::-1], value.strides[::-1]
    fields = {
        "global_address": address, "rank": len(sizes) - 1, "elemtype": layout["elem_type"],
        "swizzle_mode": layout["swizzle"], "fill_mode": value.padding == "nan",
        "box_dim": layout["block_size"][::-1], "global_dim": sizes,
        "global_stride": [stride * layout["elem_size"] for stride in strides[1:]],
        "element_stride": [1] * len(sizes),
    }  # fmt: skip
    return encoded(fields)


def _number(value: float, kind: str) -> np.generic:
    dtype = np.dtype(SCALARS[kind])
    if dtype.kind == "f":
        return dtype.type(value)
    return np.uint64(int(value) % 2 ** (8 * dtype.itemsize)).astype(dtype)
