"""Offsets into what can exceed 2^31 elements are computed in 64 bits, read off the compiled kernels."""

import math
import re

import pytest
from gpu_launches import compiled, record, record_whole

from fusedface.kernels import CurricularFace

# Pointers to (B, D), (C, D), (parts, B, D) or (B, chunk) numbers; the others address B or C numbers.
MATRICES = {
    "x_ptr", "w_ptr", "w_again_ptr", "unit_ptr", "rows_ptr", "unit_w_ptr", "weighted_ptr", "direction_ptr",
    "d_weight_ptr", "d_embeddings_ptr", "g_ptr", "parts_ptr", "flags_ptr",
}  # fmt: skip
NAME = r"%[\w.#]+"


# A block index times a block gives the index of a row or a class, which fits 32 bits. Only products with
# the length of a row do not; rows are longer than any block here, or as long as one.
LENGTHS = ("stride", "dim", "chunk")


class Offsets:
    """Follows values through the IR: which 32-bit products of an index and a row length reach a pointer.

    Numbers from `row_length` on count as lengths of rows, and arguments whose names have one of `lengths`.
    Indices are those of programs and what was loaded, and `of_ranges` those within a block too.
    """

    def __init__(self, ir, row_length=256, lengths=LENGTHS, of_ranges=False):
        self.row_length = row_length
        self.sources = {"tt.get_program_id", "tt.load"} | (
            {"tt.make_range"} if of_ranges else set()
        )
        self.base = {}  # pointer -> argument it comes from
        self.index, self.length, self.product = set(), set(), set()
        self.bad, self.checked = [], 0
        for name, kind in re.findall(rf"({NAME}): (!tt\.ptr<\w+>|i32|i64)", ir):
            if "ptr" in kind:
                self.base[name] = name[1:]
            elif any(length in name for length in lengths):
                self.length.add(name)
            else:
                self.index.add(name)
        for line in ir.splitlines():
            self._read(line.split(" loc(")[0])

    def _read(self, line):
        for argument, start in re.findall(rf"({NAME}) = ({NAME})[,)]", line):
            self._copy(argument, [start])  # what a loop carries
        if found := re.match(rf"\s*({NAME})(?::\d+)? = scf\.for ({NAME})", line):
            self.index.add(found[2])
        if not (found := re.match(rf"\s*({NAME}) = ([\w.]+) (.*)", line)):
            return
        result, operator, rest = found.groups()
        operands = re.findall(NAME, rest)
        for values in (self.index, self.length, self.product):
            values.discard(result)  # another value of that name was in the branch before
        self.base.pop(result, None)
        if operator == "tt.addptr":
            self._check(operands, line)
            self.base[result] = self.base.get(operands[0])
        elif operator in self.sources:
            self.index.add(result)
        elif operator == "arith.constant":
            number = re.match(r"(?:dense<)?(-?\d+)>? : (?:i\d+|tensor<\S+xi\d+>)$", rest)
            if number and int(number[1]) >= self.row_length:
                self.length.add(result)
        else:
            self._copy(result, operands)
            short = not re.search(r"(?:^|[x ])i64>?$", rest)
            has = [set(operands) & values for values in (self.index, self.length)]
            if operator == "arith.muli" and short and all(has):
                self.product.add(result)

    def _copy(self, result, operands):
        for values in (self.index, self.length, self.product):
            if values & set(operands):
                values.add(result)
        if operands and self.base.get(operands[0]):
            self.base[result] = self.base[operands[0]]

    def _check(self, operands, line):
        if self.base.get(operands[0]) in MATRICES:
            self.checked += 1
            if operands[1] in self.product:
                self.bad.append(line.strip())


@pytest.mark.parametrize("dim", [256, 512])
def test_offsets_have_64_bits(dim, monkeypatch):
    launches = [
        launch
        for train in (True, False)
        for launch in record(
            512, 20_000_000, dim, train=train, target="sm_80", monkeypatch=monkeypatch
        )
    ]
    checked = {}
    for launch in {launch.name: launch for launch in launches}.values():
        offsets = Offsets(compiled(launch, "sm_80").asm["ttir"], row_length=dim)
        assert offsets.bad == [], launch.name
        checked[launch.name] = offsets.checked
    without_matrices = {"row_factors_kernel", "combine_kernel"}
    assert {name for name, num in checked.items() if not num} <= without_matrices


def test_column_offsets_of_transposed_class_centres_have_64_bits(monkeypatch):
    """Their column stride is the number of classes, so D of them can exceed 2^31 too."""
    launches, checked = record_whole(
        64, 5_000_000, 512, CurricularFace(), target="sm_80", transposed=True, monkeypatch=monkeypatch
    ), 0  # fmt: skip
    for launch in {launch.name: launch for launch in launches}.values():
        ir = compiled(launch, "sm_80").asm["ttir"]
        if "column_stride: i32" in ir:
            offsets = Offsets(ir, row_length=math.inf, lengths=("column_stride",), of_ranges=True)
            assert offsets.bad == [], launch.name
            checked += offsets.checked
    assert checked


def test_a_short_product_is_found():
    ir = """
  tt.func public @k(%w_ptr: !tt.ptr<f32>, %stride: i32) {
    %0 = tt.get_program_id x : i32 loc(#l)
    %1 = arith.muli %0, %stride : i32 loc(#l)
    %9 = arith.extsi %1 : i32 to i64 loc(#l)
    %2 = tt.splat %w_ptr : !tt.ptr<f32> -> tensor<64x!tt.ptr<f32>> loc(#l)
    %3 = tt.splat %9 : i64 -> tensor<64xi64> loc(#l)
    %4 = tt.addptr %2, %3 : tensor<64x!tt.ptr<f32>>, tensor<64xi64> loc(#l)
"""
    assert len(Offsets(ir).bad) == 1
    assert Offsets(ir.replace("i32", "i64")).bad == []
