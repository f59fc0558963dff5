"""The folder in which this package keeps what it measured or compiled on this machine."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$FUSEDFACE_CACHE, else $XDG_CACHE_HOME/fusedface, else ~/.cache/fusedface; it may not exist yet.

    Raises:
        OSError: no variable names a folder, and this user has no home folder.
    """
    if folder := os.environ.get("FUSEDFACE_CACHE"):
        return Path(folder)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "fusedface"
    try:
        return Path.home() / ".cache" / "fusedface"
    except RuntimeError:
        raise OSError(
            "this user has no home folder: name a folder for caches in FUSEDFACE_CACHE"
        ) from None
