"""The file of measured choices: JSON with one list for each device; each write replaces the whole file."""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from fusedface.kernels.interface.cache_folder import cache_folder

VERSION = 1
Entries = list[tuple[list[Any], dict[str, Any]]]  # (case, tile) as JSON has them


def path() -> Path:
    """The path of the file."""
    return cache_folder() / "tuning.json"


def load(device: str) -> Entries:
    """Entries of one device; none, with a warning, where the file cannot be read."""
    try:
        where = path()
    except OSError:  # without a folder, nothing can have been saved
        return []
    try:
        return [(entry["case"], entry["tile"]) for entry in _read().get(device, [])]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        warnings.warn(f"{where} is not used, delete it: {error!r}", RuntimeWarning, stacklevel=2)
        return []


def save(device: str, entries: Entries) -> None:
    """Replace the entries of one device; other processes see the old file or the new one."""
    try:
        devices = _read()
    except (OSError, ValueError, RecursionError):
        devices = {}
    devices[device] = [{"case": case, "tile": tile} for case, tile in entries]
    target = path()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # for build.is_only_ours
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False) as file:
        json.dump({"version": VERSION, "devices": devices}, file, indent=1)
    Path(file.name).replace(target)


def _read() -> dict[str, Any]:
    try:
        content = json.loads(path().read_text())
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("devices"), dict):
        raise json.JSONDecodeError("it holds no measurements", path().name, 0)
    return content["devices"] if content.get("version") == VERSION else {}
