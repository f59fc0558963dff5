"""Aligned face crops: five landmarks brought to the template that recognition networks are trained on.

The landmarks come from an external detector. The similarity is the least-squares one of Umeyama,
"Least-squares estimation of transformation parameters between two point patterns", PAMI 1991. The
template is that of insightface's packs.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fusedface.data.sources.images import IMAGE_SUFFIXES, UnreadableImage, read_image
from fusedface.data.sources.text_files import inside_path, read_lines

# x, y of left eye, right eye, nose, left and right corner of the mouth, as seen in the 112x112 image.
TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)
TEMPLATE_SIZE = 112
MAX_PHOTO_PIXELS = 120_000_000  # a photo to be cropped may be larger than a face
JPEG_QUALITY = 95


class Landmarks(NamedTuple):
    """A line of a CSV."""

    path: str
    points: np.ndarray  # (5, 2) float64, x and y in pixels
    where: str  # file and line, for messages


class Aligned(NamedTuple):
    """The result of `align_folder`."""

    num_images: int
    skipped: tuple[UnreadableImage, ...]


def template(size: int) -> np.ndarray:
    """The template (5, 2) of a square crop; multiples of 128 have a margin of 8 in 128 at each side.

    Raises:
        ValueError: `size` is not a multiple of 112 or 128.
    """
    if size > 0 and size % TEMPLATE_SIZE == 0:
        return TEMPLATE * (size / TEMPLATE_SIZE)
    if size > 0 and size % 128 == 0:
        return (TEMPLATE + np.array([8, 0])) * (size / 128)
    raise ValueError(f"an aligned crop has a multiple of 112 or 128 pixels a side, got {size}")


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The matrix (2, 3) [scale R | t] that maps source points to target points best; it never mirrors.

    Args:
        source: (N, 2).
        target: (N, 2).

    Raises:
        ValueError: the source points coincide.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    centred, wanted = source - source_mean, target - target_mean
    variance = (centred**2).sum()
    if not variance > 0:
        raise ValueError("the landmarks coincide")
    u, singular, v = np.linalg.svd(wanted.T @ centred)
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])
    linear = (singular * sign).sum() / variance * (u * sign) @ v
    return np.column_stack([linear, target_mean - linear @ source_mean])


def align(image: np.ndarray, points: np.ndarray, size: int = TEMPLATE_SIZE) -> np.ndarray:
    """Crop a face: (H, W, 3) uint8 to (size, size, 3); pixels outside the image are black.

    Args:
        image: the photo.
        points: (5, 2), x and y in pixels, in the order of TEMPLATE.
        size: of the crop, in pixels.

    Raises:
        ValueError: the landmarks coincide, the size is bad, or OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError("alignment needs OpenCV (pip install opencv-python-headless)") from error
    return cv2.warpAffine(image, similarity(points, template(size)), (size, size))


def read_landmarks(path: Path, root: Path) -> list[Landmarks]:
    """Read a CSV with lines path,x1,y1,...,x5,y5, with or without a header.

    Args:
        path: of the CSV.
        root: the folder its paths start from.

    Raises:
        ValueError: a line is malformed or its path leaves `root`; the message names file and line.
    """
    try:
        rows = list(enumerate(csv.reader(read_lines(path)), start=1))
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None
    rows = [(number, row) for number, row in rows if row]
    if rows and _numbers(rows[0][1][1:]) is None:
        rows = rows[1:]  # a header
    if not rows:
        raise ValueError(f"{path} lists no faces; expected lines of path,x1,y1,...,x5,y5")
    return [_landmarks(row, f"{path}:{number}", root) for number, row in rows]


def _landmarks(row: list[str], where: str, root: Path) -> Landmarks:
    numbers = _numbers(row[1:])
    if numbers is None or len(numbers) != 10 or not np.isfinite(numbers).all():
        shown = ",".join(row)[:80]
        raise ValueError(f"{where}: expected path,x1,y1,...,x5,y5, got {shown!r}")
    if Path(row[0].strip()).suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(
            f"{where}: {row[0][:80]!r} must end in one of {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return Landmarks(inside_path(row[0].strip(), root, where), numbers.reshape(5, 2), where)


def _numbers(fields: list[str]) -> np.ndarray | None:
    try:
        return np.array([float(field) for field in fields])
    except ValueError:
        return None


def align_folder(
    root: Path,
    faces: list[Landmarks],
    out: Path,
    size: int = TEMPLATE_SIZE,
    *,
    skip_bad: bool = False,
) -> Aligned:
    """Write an aligned crop of each face to its path below `out`, as the kind of file it was.

    Args:
        root: the folder of the photos.
        faces: the landmarks, from `read_landmarks`.
        out: the folder to write to.
        size: of the crops, in pixels.
        skip_bad: leave out photos that cannot be read; `Aligned.skipped` has them.

    Raises:
        UnreadableImage: a photo cannot be read, and `skip_bad` is False.
        ValueError: landmarks coincide, or a crop exists already; the message names file and line.
    """
    skipped = []
    for face in faces:
        target = out / inside_path(face.path, out, face.where)
        if target.exists():
            raise ValueError(f"{face.where}: {target} exists already; every crop has its own path")
        try:
            photo = read_image(root / face.path, MAX_PHOTO_PIXELS)
        except UnreadableImage as error:
            if not skip_bad:
                raise
            skipped.append(error)
            continue
        _write_crop(photo, face, size, target)
    return Aligned(len(faces) - len(skipped), tuple(skipped))


def _write_crop(photo: np.ndarray, face: Landmarks, size: int, target: Path) -> None:
    """Align a face and write the crop; an error of its landmarks says where they are from."""
    try:
        crop = align(photo, face.points, size)
    except ValueError as error:
        raise ValueError(f"{face.where}: {error}") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(crop).save(target, quality=JPEG_QUALITY)
