"""IJB-B and IJB-C in the layout of insightface's evaluation: templates of many photos and frames.

    FOLDER/meta/*_face_tid_mid.txt          image template medium         a line a face
    FOLDER/meta/*_name_5pts_score.txt       name x1 y1 ... x5 y5 score    in the same order
    FOLDER/meta/*_template_pair_label.txt   template template 0|1
    FOLDER/loose_crop/                      the images

NIST does not distribute the sets any more; existing copies have this layout.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedface.data.align import align
from fusedface.data.sources import Images
from fusedface.data.sources.images import read_image
from fusedface.data.sources.reading import readable
from fusedface.data.sources.text_files import inside_path, read_lines

FACES, POINTS, PAIRS = "*_face_tid_mid.txt", "*_name_5pts_score.txt", "*_template_pair_label.txt"
IMAGES = "loose_crop"


class CroppedImages(Images):
    """Faces that are aligned by their landmarks when they are read."""

    def __init__(self, root: Path, names: list[str], points: np.ndarray) -> None:
        self.root, self.names, self.points = root, names, points

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> np.ndarray:
        """(112, 112, 3) uint8.

        Raises:
            UnreadableImage: the image is missing or broken.
            ValueError: its landmarks coincide.
        """
        return align(read_image(self.root / self.names[index]), self.points[index])

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.root / self.names[index])


@dataclass(frozen=True)
class Templates:
    """N faces in templates, and P pairs of templates."""

    images: CroppedImages
    score: np.ndarray  # (N,) float64, of the detector
    template: np.ndarray  # (N,) int64
    medium: np.ndarray  # (N,) int64: a photo, or a video whose frames count as one
    first: np.ndarray  # (P,) int64, templates
    second: np.ndarray  # (P,)
    same: np.ndarray  # (P,) bool


def read_templates(folder: Path) -> Templates:
    """Read the protocol.

    Args:
        folder: the folder that holds `meta` and `loose_crop`.

    Raises:
        ValueError: a file is missing or malformed, files disagree, or a pair names a template without
            faces.
    """
    faces = _rows(folder, FACES, 3)
    points = _rows(folder, POINTS, 12)
    names, numbers = _names_and_numbers(folder, points, POINTS)
    same_names, ids = _names_and_numbers(folder, faces, FACES)
    _refuse_other_names(folder, same_names, names)
    template, medium = ids.astype(np.int64).T
    first, second, same = _pairs(folder).T
    _check_pairs(folder, np.concatenate([first, second]), same, template)
    landmarks = numbers[:, :10].reshape(-1, 5, 2)
    images = CroppedImages(folder / IMAGES, names, landmarks)
    return Templates(images, numbers[:, 10], template, medium, first, second, same == 1)


def _refuse_other_names(folder: Path, faces: list[str], points: list[str]) -> None:
    """Raise ValueError unless two files list the same images in the same order."""
    if len(faces) != len(points):
        raise ValueError(
            f"{folder}: {FACES} lists {len(faces)} faces and {POINTS} {len(points)}; a line of each is a "
            "face"
        )
    for number, (one, other) in enumerate(zip(faces, points, strict=True), start=1):
        if one != other:
            raise ValueError(
                f"{folder}: face {number} is {one[:80]!r} in {FACES} and {other[:80]!r} in {POINTS}; both "
                "must list the same images in the same order"
            )


def _check_pairs(folder: Path, named: np.ndarray, same: np.ndarray, template: np.ndarray) -> None:
    """Raise ValueError unless all pairs are marked 0 or 1, and name templates with faces."""
    if not np.isin(same, (0, 1)).all():
        raise ValueError(f"{folder}: the third column of {PAIRS} must be 0 or 1")
    unknown = np.setdiff1d(named, template)
    if len(unknown):
        raise ValueError(
            f"{folder}: {PAIRS} names template {unknown[0]}, of which {FACES} has no face"
        )


def _pairs(folder: Path) -> np.ndarray:
    """The pairs (P, 3) int64. IJB-C has 15.7 million: as lists of fields they would take 5 GB."""
    path = _only(folder, PAIRS)
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("error")  # of a file without a line
        try:
            pairs = np.loadtxt(path, np.int64, comments=None, ndmin=2, encoding="utf-8-sig")
        except (ValueError, Warning) as error:
            raise ValueError(
                f"{path}: expected lines of 'template template 0|1': {error}"
            ) from None
    if pairs.shape[1] != 3:
        raise ValueError(f"{path}: expected 3 fields a line, got {pairs.shape[1]}")
    return pairs


def _rows(folder: Path, pattern: str, columns: int) -> list[list[str]]:
    """The fields of each line of the only file that matches that name."""
    path = _only(folder, pattern)
    rows = [line.split() for line in read_lines(path) if line.strip()]
    if not rows:
        raise ValueError(f"{path} is empty")
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise ValueError(f"{path}:{number}: expected {columns} fields, got {len(row)}")
    return rows


def _only(folder: Path, pattern: str) -> Path:
    """The only file in `meta` that matches that name."""
    found = sorted((folder / "meta").glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{folder}: expected one file meta/{pattern}, got {len(found)}")
    return found[0]


def _names_and_numbers(
    folder: Path, rows: list[list[str]], what: str
) -> tuple[list[str], np.ndarray]:
    names = [inside_path(row[0], folder / IMAGES, f"{folder}: {what}") for row in rows]
    return names, _numbers(folder, [row[1:] for row in rows], what)


def _numbers(folder: Path, rows: list[list[str]], what: str) -> np.ndarray:
    try:
        numbers = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{folder}: {what}: {error}") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"{folder}: {what} holds numbers that are not finite")
    return numbers
