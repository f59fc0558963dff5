"""A gallery of known people: one folder or one image for each person, named after the person."""

from pathlib import Path

from fusedface.data.pair_list import ImageFiles
from fusedface.data.sources.images import files_below, is_image_name, printable


def read_gallery(root: Path) -> tuple[ImageFiles, list[str]]:
    """The images of a gallery, and the person on each; what is hidden and links out of it are left out.

    Raises:
        ValueError: it is not a folder, or holds no images.
    """
    if not root.is_dir():
        raise ValueError(
            f"{root} is not a folder; give one that holds a folder, or an image, for each person"
        )
    inside = root.resolve()
    paths, people = [], []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        found = files_below(entry) if entry.is_dir() else [entry]
        for path in found:
            if is_image_name(path) and inside in path.resolve().parents:
                paths.append(str(path.relative_to(root)))
                people.append(printable(entry.name if entry.is_dir() else entry.stem))
    if not paths:
        raise ValueError(
            f"{root} holds no images; expected files such as {root / 'some_name' / 'a.jpg'}"
        )
    return ImageFiles(root, paths, None), people


def face_files(paths: list[Path]) -> ImageFiles:
    """The image files among `paths`, and those in folders among them, at any depth, unless they are hidden.

    Raises:
        ValueError: a path does not exist, or a folder holds no images.
    """
    found: list[str] = []
    for path in paths:
        if path.is_dir():
            inside = [str(p) for p in files_below(path) if is_image_name(p)]
            if not inside:
                raise ValueError(f"{path} holds no images")
            found += inside
        elif path.exists():
            found.append(str(path))
        else:
            raise ValueError(f"{path} does not exist")
    return ImageFiles(Path(), found, None)
