"""Recipes as TOML, and single settings as `optim.lr=0.05`; the dataclass fields give the types."""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fusedface.kernels import MARGINS, WEIGHTINGS, Margin, Weighting
from fusedface.recipes.configuration.fields import Kinds, build, keys_of, nearest, parse
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.host.terminal import visible

KINDS: Kinds = {Margin: MARGINS, Weighting: WEIGHTINGS}
HEADER = "# A resolved recipe; `recipe run` takes this file in place of a name.\n\n"


def to_dict(record: Any) -> dict[str, Any]:
    """A recipe or a part of one as nested dicts of numbers, strings and lists; None values are left out."""
    values: dict[str, Any] = {"name": record.name} if isinstance(record, tuple(KINDS)) else {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = to_dict(value)
        elif value is not None:
            values[field.name] = list(value) if isinstance(value, tuple) else value
    return values


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `to_dict`; a missing setting takes its default.

    Raises:
        ValueError: a key is unknown (the nearest valid one is named) or a value is bad.
    """
    return build(Recipe, values, "", KINDS)


def to_toml(recipe: Recipe) -> str:
    """The text of a recipe file; reading it gives exactly `recipe`.

    Raises:
        ValueError: a setting holds bytes of a name that are not UTF-8, which no TOML file can hold.
    """
    import tomli_w  # here only: benchmarks read recipes and write none, and run without it

    values = to_dict(recipe)
    for key, value in _flat(values).items():
        texts = value if isinstance(value, list) else [value]
        if any("\ud800" <= letter <= "\udfff" for text in texts for letter in str(text)):
            raise ValueError(
                f"{key} is {value!r}, which is not UTF-8: no recipe file can hold it; rename that path"
            )
    # TOML allows characters that control a terminal; their escapes denote the same string.
    return HEADER + "".join(
        letter if letter == "\n" or visible(letter) == letter else f"\\U{ord(letter):08x}"
        for letter in tomli_w.dumps(values)
    )


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file.

    Raises:
        ValueError: the file cannot be read, is not TOML, or `from_dict` refuses it.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, too long, too deep
        raise ValueError(f"{path} is no TOML: {error}") from None
    try:
        return from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """A recipe with single settings changed.

    Args:
        recipe: where the other settings come from.
        assignments: such as "optim.lr=0.05", "head.margin=arcface", "head.margin.m=0.45",
            "backbone.input_size=[112, 96]", "schedule.steps=none".

    Raises:
        ValueError: an assignment has no "=", its key is unknown (the nearest valid one is named), or
            its value is bad.
    """
    assignments = [*assignments]
    if not assignments:
        return recipe
    values = to_dict(recipe)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"a setting must look like optim.lr=0.05, got {assignment!r}")
        _assign(values, key.strip(), text.strip())
    return from_dict(values)


def changed_settings(one: Recipe, other: Recipe) -> dict[str, str]:
    """A line for each setting in which two recipes differ, by key: "optim.lr: 0.1 instead of 0.05"."""
    ours, theirs = _flat(to_dict(one)), _flat(to_dict(other))
    return {
        key: f"{key}: {ours.get(key, 'none')!r} instead of {theirs.get(key, 'none')!r}"
        for key in sorted(ours | theirs)
        if ours.get(key) != theirs.get(key)
    }


def differences(one: Recipe, other: Recipe) -> list[str]:
    """The lines of `changed_settings`."""
    return list(changed_settings(one, other).values())


def _assign(values: dict[str, Any], key: str, text: str) -> None:
    """Set the value at a dotted key, in place."""
    record = key.removesuffix(".name")
    if record in ("head.margin", "head.weighting"):
        # Another class starts from its own defaults.
        values["head"][record.removeprefix("head.")] = {"name": text}
        if record == "head.weighting" and text.lower() == "none":
            del values["head"]["weighting"]
        return
    hints = keys_of(Recipe, values, "", KINDS)
    if key not in hints:
        inner = [name for name in hints if name.startswith(f"{key}.")]
        if inner:
            raise ValueError(f"{key} is a group of settings; set one of {', '.join(inner)}")
        raise ValueError(f"unknown setting {key!r}{nearest(key, hints)}")
    *groups, last = key.split(".")
    for group in groups:
        values = values[group]
    value = parse(hints[key], text, key)
    if value is None:
        values.pop(last, None)
    else:
        values[last] = value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = (
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        )
        flat |= inner
    return flat
