"""The mutants of a source file: copies that differ in one operator, number, condition or statement.

    comparison   < to <=, == to !=, in to not in, ...      arithmetic   + to -, * to /, ...
    number       n to n + 1, x to 2 x                      boolean      and to or, not left out
    condition    of if, while and a ternary, negated       statement    a call or a raise left out
    function     min to max, any to all, mean to sum, ...  method       detach, clone, abs, ... left out

Text of messages is left as it is, and so are annotations and what cannot be told from outside.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}  # fmt: skip
_PAIRS = (
    ("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("clamp_min", "clamp_max"),
    ("any", "all"), ("floor", "ceil"), ("cos", "sin"), ("mean", "sum"), ("nanmean", "nansum"),
)  # fmt: skip
FUNCTIONS = {**dict(_PAIRS), **{b: a for a, b in _PAIRS}}
# Without them a tensor keeps its value: what is lost is a copy, a gradient that stops or grows.
DROPPED_CALLS = ("detach", "clone", "clamp_min", "clamp_max", "clip", "abs")
CACHES = {"cache", "lru_cache"}
SKIPPED_FIELDS = ("annotation", "returns", "decorator_list", "bases")


@dataclass(frozen=True)
class Mutant:
    """One change of a file."""

    line: int
    function: str | None
    """The qualified name of the innermost function, None for code that runs at import."""
    before: str
    after: str
    source: str
    """The whole file, changed."""

    def __str__(self) -> str:
        return f"{self.line}: {self.before}  ->  {self.after}"


@dataclass(frozen=True)
class _Edit:
    """`container[key] = value`, shown on `shown`."""

    container: Any
    key: Any
    value: Any
    shown: ast.AST


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of `source`, in its order."""
    tree = ast.parse(source)
    for edit, function in _edits(tree, "", None):
        before, original = _show(edit.shown), edit.container[edit.key]
        edit.container[edit.key] = edit.value
        after, changed = _show(edit.shown), ast.unparse(ast.fix_missing_locations(tree))
        edit.container[edit.key] = original
        if isinstance(edit.value, ast.Pass):
            before, after = _show(original), "pass"
        elif before == after:
            before, after = _show(original), _show(edit.value)
        yield Mutant(
            getattr(original, "lineno", edit.shown.lineno), function, before, after, changed
        )  # type: ignore[attr-defined]


def _show(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:150]


def _edits(node: ast.AST, scope: str, function: str | None) -> Iterator[tuple[_Edit, str | None]]:
    """Edits below `node`, each with its function; `scope` is what a name below it is prefixed with."""
    if isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.ClassDef):
        scope += f"{node.name}."
    if isinstance(node, ast.FunctionDef):
        # A cached function is called by the first test only, so its calls tell nothing.
        function = None if _is_cached(node) else scope + node.name
        scope += f"{node.name}.<locals>."
    for edit in _of_node(node):
        yield edit, function
    for name, child in ast.iter_fields(node):
        if name in SKIPPED_FIELDS or (name == "keywords" and isinstance(node, ast.ClassDef)):
            continue
        for i, item in enumerate(child if isinstance(child, list) else [child]):
            if not isinstance(item, ast.AST) or _is_type_checking(item):
                continue
            if isinstance(child, list) and isinstance(item, ast.stmt) and _can_be_left_out(item):
                yield _Edit(child, i, ast.Pass(), item), function
            yield from _edits(item, scope, function)


def _is_cached(node: ast.FunctionDef) -> bool:
    names = {ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list}
    return bool(names & CACHES)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _can_be_left_out(node: ast.stmt) -> bool:
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    is_raise = isinstance(node, ast.Raise) and node.exc is not None
    return is_call or (is_raise and "NotImplementedError" not in ast.unparse(node))


def _of_node(node: ast.AST) -> Iterator[_Edit]:
    fields = vars(node)
    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                yield _Edit(node.ops, i, COMPARISONS[type(op)](), node)
        case ast.BinOp(op=op) if type(op) in ARITHMETIC and not _is_text(node):
            yield _Edit(fields, "op", ARITHMETIC[type(op)](), node)
        case ast.AugAssign(op=op) if type(op) in ARITHMETIC:
            yield _Edit(fields, "op", ARITHMETIC[type(op)](), node)
        case ast.BoolOp():
            other = ast.Or if isinstance(node.op, ast.And) else ast.And
            yield _Edit(fields, "op", other(), node)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            if name in FUNCTIONS:
                key = "id" if isinstance(node.func, ast.Name) else "attr"
                yield _Edit(vars(node.func), key, FUNCTIONS[name], node)
        case ast.If() | ast.While() | ast.IfExp() if not _has_its_own_negation(node.test):
            yield _Edit(fields, "test", ast.UnaryOp(ast.Not(), node.test), node.test)
    yield from _of_children(node)


def _has_its_own_negation(test: ast.expr) -> bool:
    exact = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
    return isinstance(test, ast.UnaryOp) or (
        isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], exact)
    )


def _of_children(node: ast.AST) -> Iterator[_Edit]:
    """Another number; a sign, a `not`, a `~` or a method left out, so that a value remains."""
    for name, value in ast.iter_fields(node):
        pairs = enumerate(value) if isinstance(value, list) else [(name, value)]
        container: Any = value if isinstance(value, list) else vars(node)
        for key, child in pairs:
            match child:
                case ast.Constant(value=number) if isinstance(number, bool | int | float):
                    other = ast.Constant(_another(number))
                    yield _Edit(container, key, other, _around(node, child))
                case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub(), operand=operand):
                    yield _Edit(container, key, operand, _around(node, child))
                case ast.Call(func=ast.Attribute(value=operand, attr=attr)) if (
                    attr in DROPPED_CALLS and not isinstance(operand, ast.Name | ast.Constant)
                ) or (attr in ("detach", "clone") and isinstance(operand, ast.Name)):
                    yield _Edit(container, key, operand, _around(node, child))


def _around(node: ast.AST, child: ast.AST) -> ast.AST:
    """What shows the change: a whole statement would show its body too."""
    return node if isinstance(node, ast.expr | ast.Assign | ast.Return | ast.AugAssign) else child


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(
        isinstance(s, ast.JoinedStr) or (isinstance(s, ast.Constant) and isinstance(s.value, str))
        for s in sides
    )


def _another(value: bool | float) -> bool | float:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return 2.0 * value if value else 1.0
