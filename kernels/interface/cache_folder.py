"""Where this package keeps what it measured or compiled on this machine."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$FUSEDFACE_CACHE, else $XDG_CACHE_HOME/fusedface, else ~/.cache/fusedface; it may not exist yet."""
    if folder := os.environ.get("FUSEDFACE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusedface"
