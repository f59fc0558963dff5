"""Frozen records that check themselves against the annotations of their own fields."""

import dataclasses
import types
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints


def choices(kind: Any) -> tuple[str, ...]:
    """The values of a Literal."""
    return get_args(kind)


def require(name: str, value: object, holds: bool, rule: str) -> None:
    """Raise ValueError naming the parameter, the rule and the value unless `holds`."""
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")


class _Rule(NamedTuple):
    """What an annotation allows."""

    kind: Any  # a class, or Literal
    values: tuple[str, ...]  # of a Literal
    may_be_none: bool


def check_types(record: Any) -> None:
    """Check each field of a dataclass instance against its annotation.

    Raises:
        TypeError: a number, a bool or a record is something else.
        ValueError: a value is none of its Literal's.
    """
    for name, rule in _rules(type(record)):
        value = getattr(record, name)
        if type(value) is not rule.kind:  # every step of a head makes records: most end here
            _check(name, value, rule)


@lru_cache
def _rules(record: type) -> tuple[tuple[str, _Rule], ...]:
    hints = get_type_hints(record)
    return tuple((field.name, _rule(hints[field.name])) for field in dataclasses.fields(record))


def _rule(kind: Any) -> _Rule:
    """The first of a union's kinds counts."""
    arguments = get_args(kind)
    may_be_none = False
    if get_origin(kind) in (Union, types.UnionType):
        may_be_none = type(None) in arguments
        kind = next(argument for argument in arguments if argument is not type(None))
    origin = get_origin(kind)
    return _Rule(origin or kind, get_args(kind) if origin is Literal else (), may_be_none)


def _check(name: str, value: object, rule: _Rule) -> None:
    kind = rule.kind
    if value is None and rule.may_be_none:
        return
    if kind is Literal:
        require(name, value, value in rule.values, f"one of {', '.join(rule.values)}")
    elif kind is tuple:
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
