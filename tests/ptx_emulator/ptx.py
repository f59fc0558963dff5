"""PTX text to instructions: the subset that Triton emits, inline assembly with its own scopes included."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

LABEL = re.compile(r"\s*([A-Za-z_$%][\w$.]*):(?!:)")
GUARD = re.compile(r"@(!?)([\w%$.]+)\s+")
REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.DOTALL)
REGISTER_RANGE = re.compile(r"([\w%$]+)<(\d+)>")
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\b[^,()]*?([\w$]+)\s*(?:\[(\d+)\])?\s*$"
)
ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)", re.DOTALL)
FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', re.MULTILINE)
SHARED = re.compile(r"^\s*\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d+)\]\s*;", re.MULTILINE)
EXTERN_SHARED = re.compile(
    r"^\s*\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[\]", re.MULTILINE
)


class PtxError(RuntimeError):
    """PTX that the emulator cannot run, or that did what hardware would not survive."""


class Address(NamedTuple):
    """[base + offset]; base is a register, a symbol, a parameter, or empty.

    Of a box in a tensor, [base, {coordinates}], innermost first.
    """

    base: str
    offset: int
    coordinates: tuple[str, ...] = ()


Operand = str | Address | tuple


@dataclass
class Instruction:
    """One instruction; `guard` is (predicate, negated) or None."""

    opcode: str
    operands: list[Operand]
    guard: tuple[str, bool] | None
    line: int
    source: str
    text: str
    name: str = field(init=False)
    modifiers: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.name, *rest = self.opcode.split(".")
        self.modifiers = tuple(part for part in rest if part)

    def __str__(self) -> str:
        return f"`{self.text}` (PTX line {self.line}, from {self.source})"


@dataclass
class Kernel:
    """An entry point: parameters (type, name), registers by name, instructions, labels by index.

    `arrays` are the parameters that are passed by value as bytes.
    """

    name: str
    parameters: list[tuple[str, str]]
    arrays: set[str]
    registers: dict[str, str]
    shared: dict[str, int]
    static_shared: int
    dynamic_shared: set[str]
    instructions: list[Instruction]
    labels: dict[str, int]

    def uses(self, name: str) -> bool:
        """Whether an instruction of that name occurs."""
        return any(instruction.name == name for instruction in self.instructions)


def parse(text: str) -> Kernel:
    """The only entry point of a module.

    Raises:
        PtxError: there is none, or a statement cannot be read.
    """
    entry = ENTRY.search(text)
    if entry is None:
        raise PtxError("no .entry in this PTX")
    files = dict(FILE.findall(text))
    parameters = [_parameter(p) for p in entry.group(2).split(",") if p.strip()]
    arrays = {name for _, name, length in parameters if length}
    shared, size = {}, 0
    for align, name, count in SHARED.findall(text):
        size = -(-size // int(align)) * int(align)
        shared[name] = size
        size += int(count)
    dynamic = set(EXTERN_SHARED.findall(text))
    body = _Body(files)
    first = text.index("{", entry.end())
    body.read(text[first + 1 :], text.count("\n", 0, first) + 1)
    return Kernel(
        entry.group(1), [(kind, name) for kind, name, _ in parameters], arrays, body.registers,
        shared, size, dynamic, body.instructions, body.labels,
    )  # fmt: skip


def _parameter(text: str) -> tuple[str, str, str | None]:
    match = PARAMETER.search(text.strip())
    if match is None:
        raise PtxError(f"parameter {text.strip()!r} cannot be read")
    kind, name, length = match.groups()
    return "b64" if length else kind, name, length  # an array is known by its address


class _Body:
    """Statements between the braces of a function."""

    def __init__(self, files: dict[str, str]) -> None:
        self.registers: dict[str, str] = {}
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self._files = files
        self._scopes: list[dict[str, str]] = [{}]
        self._path = [0]  # numbers of the scopes that are open
        self._num_scopes = 0
        self._branches: list[tuple[Instruction, list[int]]] = []
        self._source = "?"

    def read(self, text: str, line: int) -> None:
        pending, depth = "", 0  # depth of the braces of vectors
        for number, raw in enumerate(text.split("\n"), line):
            content = raw.split("//")[0]
            stripped = content.strip()
            if not pending.strip() and stripped.startswith(".loc"):
                _, file, row, *_ = stripped.split()
                self._source = f"{self._files.get(file, file)}:{row}"
                continue
            if not pending.strip() and (label := LABEL.match(content)):
                self.labels[f"{label.group(1)}@{self._path[-1]}"] = len(self.instructions)
                content = content[label.end() :]
            for char in content + " ":
                if not pending.strip() and char == "{":
                    self._scopes.append({})
                    self._num_scopes += 1
                    self._path.append(self._num_scopes)
                elif not pending.strip() and char == "}":
                    self._scopes.pop()
                    self._path.pop()
                    if not self._scopes:
                        self._find_labels()
                        return
                elif char == ";" and not depth:
                    self._statement(pending.strip(), number)
                    pending = ""
                else:
                    depth += (char == "{") - (char == "}")
                    pending += char
        raise PtxError("a function does not end")

    def _find_labels(self) -> None:
        """Branches may come before their labels, and scopes may have labels of the same name."""
        for branch, path in self._branches:
            names = [f"{branch.operands[0]}@{scope}" for scope in reversed(path)]
            found = next((name for name in names if name in self.labels), None)
            if found is None:
                raise PtxError(f"there is no such label: {branch}")
            branch.operands[0] = found

    def _statement(self, text: str, line: int) -> None:
        if not text or text.startswith(".pragma"):
            return
        if match := REGISTERS.match(text):
            self._declare(match.group(1), match.group(2))
            return
        if text.startswith("."):
            raise PtxError(f"directive `{text}` (line {line}) is not supported")
        guard, rest = None, text
        if match := GUARD.match(text):
            guard, rest = (self._scoped(match.group(2)), bool(match.group(1))), text[match.end() :]
        opcode, *operands = rest.split(None, 1)
        parsed = [self._operand(part) for part in _split(operands[0])] if operands else []
        written = " ".join(text.split())
        self.instructions.append(Instruction(opcode, parsed, guard, line, self._source, written))
        if self.instructions[-1].name == "bra":
            self._branches.append((self.instructions[-1], self._path.copy()))

    def _declare(self, kind: str, names: str) -> None:
        for name in (part.strip() for part in names.split(",")):
            if match := REGISTER_RANGE.fullmatch(name):
                self.registers |= {f"{match[1]}{i}": kind for i in range(int(match[2]))}
                continue
            unique = f"{name}@{self._num_scopes}"  # a name of an inner scope may come again
            self._scopes[-1][name] = unique
            self.registers[unique] = kind

    def _scoped(self, name: str) -> str:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return name

    def _operand(self, text: str) -> Operand:
        if text.startswith("{"):
            return tuple(self._operand(part) for part in _split(text[1:-1]))
        if text.startswith("["):
            base, *box = _split(text[1:-1])
            offset, coordinates = 0, self._operand(box[0]) if box else ()
            if match := re.fullmatch(r"([\w%$.@]+)\s*\+\s*(-?\w+)", base):
                base, offset = match.group(1), int(match.group(2), 0)
            if re.fullmatch(r"-?\d\w*", base):
                base, offset = "", int(base, 0)
            return Address(self._scoped(base), offset, coordinates)
        return self._scoped(text)


def _split(text: str) -> list[str]:
    """At commas outside braces and brackets."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char in "{[") - (char in "}]")
        if char == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    return [*parts, current.strip()] if current.strip() else parts
