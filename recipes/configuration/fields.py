"""Values of dataclass fields from TOML or text, checked against the annotations of the fields."""

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Kinds = Mapping[type, Mapping[str, type]]
"""For an annotation such as `Margin`: the dataclasses that a table may hold there, by its entry `name`."""
NO_KINDS: Kinds = {}

SYNONYMS = {
    "learning_rate": "lr", "wd": "weight_decay", "batch": "batch_size", "bs": "batch_size",
    "num_epochs": "epochs", "num_steps": "steps", "max_steps": "steps", "warmup": "warmup_steps",
    "scale": "s", "margin": "m", "scheduler": "kind", "workers": "num_workers",
    "embedding_size": "embedding_dim", "image_size": "input_size",
}  # fmt: skip
"""Names that other software gives to a setting, and the last part of our key for it."""


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """The end of the message about an unknown name: "; did you mean ...?", or nothing."""
    valid = list(valid)
    # head.m looks more like head.margin.s than like head.margin.m, so a last part that fits goes first.
    last = wrong.rpartition(".")[2]
    last = SYNONYMS.get(last, last)
    found = [key for key in valid if key.rpartition(".")[2] == last and key != last]
    found = found or difflib.get_close_matches(wrong, valid, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def hints_of(kind: type) -> dict[str, Any]:
    """The annotation of each field of a dataclass, by name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def build(kind: Any, values: Any, prefix: str, kinds: Kinds = NO_KINDS) -> Any:
    """An instance of a dataclass from nested dicts; `prefix` is the path to it, with a dot.

    Raises:
        ValueError: a key is unknown or missing, or a value is bad.
    """
    if not isinstance(values, Mapping):
        where = prefix.rstrip(".") or "a recipe"
        raise ValueError(f"{where} must be a table of settings, got {values!r}")  # noqa: TRY004
    hints = hints_of(kind)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            known = [prefix + name for name in hints]
            raise ValueError(f"unknown setting {prefix + key!r}{nearest(prefix + key, known)}")
        arguments[key] = convert(hints[key], value, prefix + key, kinds)
    if missing := [name for name in _required(kind) if name not in arguments]:
        raise ValueError(f"setting {prefix + missing[0]!r} is missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        group = prefix.rstrip(".")
        named = not group or str(error).startswith(prefix)
        raise ValueError(str(error) if named else f"{group}: {error}") from None


def _required(kind: type) -> list[str]:
    """The fields of a dataclass without a default."""
    none = dataclasses.MISSING
    fields = dataclasses.fields(kind)
    return [f.name for f in fields if f.default is none and f.default_factory is none]


def without_none(hint: Any) -> Any:
    """The annotation of a field without its `| None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint


def named_type(known: Mapping[str, type], values: Any, key: str) -> type:
    """The class in `known` that a table names by its entry `name`."""
    name = values.get("name") if isinstance(values, Mapping) else values
    if not isinstance(name, str) or name not in known:
        close = nearest(str(name), known)
        raise ValueError(f"{key} must be one of {', '.join(known)}, got {name!r}{close}")
    return known[name]


def keys_of(
    kind: type, values: Mapping[str, Any], prefix: str, kinds: Kinds = NO_KINDS
) -> dict[str, Any]:
    """The annotation of each setting in and below a dataclass, by dotted key; `values` names its kinds."""
    keys: dict[str, Any] = {}
    for name, hint in hints_of(kind).items():
        inner = without_none(hint)
        if inner in kinds:
            if name not in values:
                keys[prefix + name] = hint
                continue
            inner = named_type(kinds[inner], values[name], prefix + name)
        if dataclasses.is_dataclass(inner):
            keys |= keys_of(inner, values.get(name, {}), f"{prefix}{name}.", kinds)  # pyright: ignore[reportArgumentType]
        else:
            keys[prefix + name] = hint
    return keys


def convert(hint: Any, value: Any, key: str, kinds: Kinds = NO_KINDS) -> Any:
    """Check a value against a field's type; integers become floats, lists tuples, tables dataclasses."""
    if hint in kinds:
        kind = named_type(kinds[hint], value, key)
        arguments = {k: v for k, v in value.items() if k != "name"} if value != kind.name else {}
        return build(kind, arguments, f"{key}.")
    if dataclasses.is_dataclass(hint):
        return build(hint, value, f"{key}.", kinds)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return convert(without_none(hint), value, key, kinds)
    if origin is Literal:
        if value not in arguments:
            close = nearest(str(value), arguments)
            raise ValueError(f"{key} must be one of {', '.join(arguments)}, got {value!r}{close}")
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, key)
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{key} must be a number below 1e308, got a longer one") from None
    if hint is str and isinstance(value, str) and "\0" in value:
        raise ValueError(f"{key} must hold no zero byte, got {value!r}")
    if type(value) is not hint:
        raise ValueError(f"{key} must be {_described(hint)}, got {value!r}")
    return value


def _convert_tuple(kinds: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    """Check a list against tuple[kind, ...] or tuple[kind, kind]."""
    any_length = kinds[-1] is Ellipsis
    is_list = isinstance(value, list | tuple)
    if not is_list or not (any_length or len(value) == len(kinds)):
        size = "a list" if any_length else f"{len(kinds)} values"
        raise ValueError(f"{key} must be {size}, {_described(kinds[0])} each, got {value!r}")
    return tuple(convert(kinds[0], item, key) for item in value)


def parse(hint: Any, text: str, key: str) -> Any:
    """The value that a text of the command line denotes; "none" gives None if the field allows it."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if type(None) in options and text.lower() == "none":
        return None
    kind = options[0]
    if kind is str or get_origin(kind) is Literal:
        return convert(hint, text, key)
    if get_origin(kind) is tuple and get_args(kind)[0] is str and not text.startswith("["):
        return list(filter(None, (part.strip() for part in text.split(","))))
    try:
        # Inside a list, so that a comment or a second line is a syntax error.
        table = tomllib.loads(f"value = [{text}]")
        (value,) = table.pop("value")
        value = text if table else value
    except (ValueError, RecursionError):  # not TOML, a number too long, or nested too deep
        value = text
    converted = convert(hint, value, key)
    return list(converted) if isinstance(converted, tuple) else converted


def _described(kind: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
