"""Frozen records that check themselves against the annotations of their own fields."""

import dataclasses
import types
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def choices(kind: Any) -> tuple[str, ...]:
    """The values of a Literal."""
    return get_args(kind)


def require(name: str, value: object, holds: bool, rule: str) -> None:
    """Raise ValueError naming the parameter, the rule and the value unless `holds`."""
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def check_types(record: Any) -> None:
    """Check each field of a dataclass instance against its annotation.

    Raises:
        TypeError: a number, a bool or a record is something else.
        ValueError: a value is none of its Literal's.
    """
    for name, kind in _annotations(type(record)).items():
        _check(name, getattr(record, name), kind)


@lru_cache
def _annotations(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _check(name: str, value: object, kind: Any) -> None:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return
        kind = next(argument for argument in arguments if argument is not type(None))
        origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        require(name, value, value in arguments, f"one of {', '.join(arguments)}")
    elif origin is tuple:
        if not isinstance(value, tuple):
            raise TypeError(f"{name} must be a tuple, got {value!r}")
    elif not _is(value, kind):
        wanted = {float: "a number", int: "an integer", bool: "True or False"}
        described = wanted.get(kind) or f"a {kind.__name__}{_example(kind)}"
        raise TypeError(f"{name} must be {described}, got {value!r}")


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    numbers: dict[type, type] = {float: Real, int: Integral}
    return isinstance(value, numbers.get(kind, kind))


def _example(kind: type) -> str:
    example = getattr(kind, "example", "")
    return f" such as {example}" if example else ""
