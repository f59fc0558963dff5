"""The folder of an --out: looked at before the work whose results go there."""

from pathlib import Path


def existing_folder(folder: Path) -> Path:
    """The folder, or its nearest parent that exists.

    Raises:
        ValueError: that is a file, so the folder cannot be made.
    """
    folder = folder.absolute()
    found = next(path for path in (folder, *folder.parents) if path.exists())
    if not found.is_dir():
        raise ValueError(f"{found} is a file; give a folder for the results")
    return found
