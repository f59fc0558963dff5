"""thresholds.json: the thresholds of one model file, for programs and for `verify`.

{"format": "fusedface-thresholds", "version": 1,
 "model": {"file": "best.pt", "sha256": "..."},
 "sets": {"lfw_pairs": {"points": [{"far": 0.001, "threshold": ..., ...}, ...], "best": ...,
                        "calibration": {"slope": ..., "intercept": ...}, ...}}}
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from fusedface.recipes.configuration.digest import sha256
from fusedface.recipes.evaluation.bootstrap import Interval
from fusedface.recipes.evaluation.calibration import Calibration
from fusedface.recipes.evaluation.thresholds import OperatingPoint, SetThresholds
from fusedface.recipes.host.program import command
from fusedface.recipes.run_directory.files import read_json, write_text
from fusedface.recipes.run_directory.metrics import is_number

_T = TypeVar("_T")
FORMAT, VERSION = "fusedface-thresholds", 1
SUFFIX = ".thresholds.json"
MAX_BYTES = 1 << 24


@dataclass(frozen=True)
class ModelFile:
    """A model file by name and hash, so that thresholds are not used for another model."""

    file: str
    sha256: str


@dataclass(frozen=True)
class ThresholdFile:
    """Thresholds by set name, and the model that they belong to."""

    model: ModelFile
    sets: Mapping[str, SetThresholds]


def model_file(path: Path) -> ModelFile:
    """Name and SHA-256 of a file.

    Raises:
        ValueError: it cannot be read.
    """
    return ModelFile(path.name, sha256(path))


def write_thresholds(path: Path, model: ModelFile, sets: Mapping[str, SetThresholds]) -> None:
    """Write the file."""
    document = {
        "format": FORMAT, "version": VERSION, "model": asdict(model),
        "sets": {name: asdict(found) for name, found in sets.items()},
    }  # fmt: skip
    write_text(path, json.dumps(document, indent=2) + "\n")


def read_thresholds(path: Path) -> ThresholdFile:
    """Read what `write_thresholds` has written; every number is checked.

    Raises:
        ValueError: there is no such file, or it is damaged or of another kind; the message names it.
    """
    document = _document(path)
    try:
        _one_of(document, "format", FORMAT)
        _one_of(document, "version", VERSION)
        model = ModelFile(**_texts(document["model"], "file", "sha256"))
        sets = {name: _set(values) for name, values in document["sets"].items()}
    except (KeyError, TypeError, AttributeError, _Damaged) as error:
        reason = f"{error}" if isinstance(error, _Damaged) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is no thresholds.json: {reason[:200]}") from None
    if not sets:
        raise ValueError(f"{path} holds the thresholds of no set")
    return ThresholdFile(model, sets)


def thresholds_of_model(path: Path, model: Path) -> ThresholdFile:
    """All thresholds of a file, if they were measured with this model.

    Raises:
        ValueError: the file cannot be read, or they were measured with another model.
    """
    found, known = read_thresholds(path), model_file(model)
    if known.sha256 != found.model.sha256:
        again = command("evaluate", model, "--root", "FACES", "--out", "RESULTS")
        raise ValueError(
            f"{path} was measured with {found.model.file} (sha256 {found.model.sha256[:12]}), not with "
            f"{known.file} ({known.sha256[:12]}), and thresholds do not carry over; measure this one with: "
            f"{again}"
        )
    return found


def thresholds_of(path: Path, model: Path, set_name: str | None) -> tuple[str, SetThresholds]:
    """The name and thresholds of one set of a file, if they were measured with this model.

    Raises:
        ValueError: they were measured with another model, the set is unknown, or the file has several sets
            and none is named.
    """
    found = thresholds_of_model(path, model)
    names = ", ".join(found.sets)
    if set_name is None and len(found.sets) > 1:
        raise ValueError(f"{path} holds several sets; choose one with --set: {names}")
    name = next(iter(found.sets)) if set_name is None else set_name
    if name not in found.sets:
        raise ValueError(f"{path} holds no set {name!r}; it holds: {names}")
    return name, found.sets[name]


class _Damaged(Exception):  # noqa: N818  it never leaves this file
    pass


def _document(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is no thresholds.json: it is larger than {MAX_BYTES:,} bytes")
    return read_json(path)


def _set(values: Any) -> SetThresholds:
    calibration = _pair(Calibration, values["calibration"], "slope", "intercept")
    people = values["num_people"]
    return SetThresholds(
        points=tuple(_point(point) for point in values["points"]),
        calibration=calibration,
        num_genuine=_count(values, "num_genuine"),
        num_impostor=_count(values, "num_impostor"),
        num_images=_count(values, "num_images"),
        num_people=None if people is None else _count(values, "num_people"),
        scored=_one_of(values, "scored", "listed", "all"),
        drawn=_one_of(values, "drawn", "people", "images"),
        best=_number(values, "best"),
        cllr=_number(values, "cllr"),
    )


def _point(values: Any) -> OperatingPoint:
    return OperatingPoint(
        threshold_interval=_pair(Interval, values["threshold_interval"], "low", "high"),
        tar_interval=_pair(Interval, values["tar_interval"], "low", "high"),
        num_allowed=_count(values, "num_allowed"),
        far=_number(values, "far"),
        threshold=_number(values, "threshold"),
        tar=_number(values, "tar"),
    )


def _pair(kind: Callable[[float, float], _T], values: Any, one: str, other: str) -> _T:
    """A record of two numbers."""
    return kind(_number(values, one), _number(values, other))


def _number(values: Any, key: str) -> float:
    value = values[key]
    if not is_number(value) or not abs(value) < 1e9:  # refuses NaN and infinity
        raise _Damaged(f"{key} is {str(value)[:80]!r}, no finite number")
    return float(value)


def _count(values: Any, key: str) -> int:
    value = values[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise _Damaged(f"{key} is {str(value)[:80]!r}, no count")
    return value


def _one_of(values: Any, key: str, *allowed: str | int) -> Any:
    if values[key] not in allowed:
        names = " or ".join(map(str, allowed))
        raise _Damaged(f"{key} is {str(values[key])[:80]!r}, it must be {names}")
    return values[key]


def _texts(values: Any, *keys: str) -> dict[str, str]:
    for key in keys:
        if not isinstance(values[key], str):
            raise _Damaged(f"{key} is {str(values[key])[:80]!r}, no text")
    return {key: values[key] for key in keys}
