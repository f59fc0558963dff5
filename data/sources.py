"""Where faces come from: a folder per identity, or a list file; a way to decode images for all sources.

RecordIO packs: data/recordio. Generated faces: data/synthetic.
"""

import os
import stat
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow warns of large images, before `decode_image` refuses smaller ones.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})
# No others: Pillow would hand an EPS file to Ghostscript, which runs it.
IMAGE_KINDS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
# An aligned face has 12,544 pixels. A file that unpacks to more than this many is no face crop, and
# may be made to fill the memory.
MAX_PIXELS = 16_000_000
MAX_NAME_BYTES = 255  # of a file or folder, as of nearly all file systems
MAX_IMAGE_BYTES = 1 << 26  # 64 MiB, more than MAX_PIXELS take uncompressed
PROBED_IMAGES = 16  # decoded when a source is opened, to tell a wrong folder at once


class UnreadableImage(ValueError):  # noqa: N818  the name says what it is
    """An image that cannot be decoded.

    Args:
        path: of the image.
        reason: why.
    """

    def __init__(self, path: str, reason: str) -> None:
        path, reason = printable(path), printable(reason)
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # it crosses from worker processes
        return type(self), (self.path, self.reason)


@runtime_checkable
class FaceSource(Protocol):
    """Labelled face images, read one at a time; cheap to hand to worker processes."""

    @property
    def num_classes(self) -> int:
        """Number of identities."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """A name for each identity."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64 in [0, num_classes)."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB.

        Raises:
            UnreadableImage: it cannot be decoded.
        """
        ...

    def describe(self, index: int) -> str:
        """What a person would call the image: its path, say."""
        ...


class FileSource:
    """Image files with labels; what folders and list files come down to.

    Args:
        root: what the paths start from.
        paths: relative to `root`.
        names: the identity of each path; classes are the sorted distinct names.

    Raises:
        ValueError: fewer than two identities, or none of the first images can be decoded.
    """

    def __init__(self, root: Path, paths: Sequence[str], names: Sequence[str]) -> None:
        self.root = root
        classes = sorted(set(names))
        self.class_names: list[str] = [printable(name) for name in classes]
        if len(classes) < 2:
            only = f" (only {self.class_names[0]!r})" if classes else ""
            raise ValueError(f"{root} must hold at least 2 identities, found {len(classes)}{only}")
        number = {name: i for i, name in enumerate(classes)}
        self.labels = np.array([number[name] for name in names], dtype=np.int64)
        # One array of bytes, not a list of objects: workers share it without copying page by page.
        self._paths = np.array([os.fsencode(path) for path in paths])
        probe(self, root)

    @property
    def num_classes(self) -> int:
        """Number of identities."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / os.fsdecode(bytes(self._paths[index]))

    def image(self, index: int) -> np.ndarray:
        """See `FaceSource`."""
        return read_image(self.path(index))

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.path(index))

    def encoded(self, index: int) -> bytes:
        """The image as it lies in its file."""
        return read_encoded(self.path(index))


def probe(source: FaceSource, path: Path) -> None:
    """Raise ValueError if none of a few images spread over the source at `path` can be decoded."""
    reasons = []
    for index in np.linspace(0, len(source) - 1, min(PROBED_IMAGES, len(source))).astype(int):
        try:
            source.image(int(index))
        except UnreadableImage as error:
            reasons.append(str(error))
        else:
            return
    raise ValueError(
        f"{path}: none of {len(reasons)} images tried can be read; the first:\n  {reasons[0]}"
    )


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file; see `decode_image`.

    Raises:
        UnreadableImage: it is missing or no plain file, or `decode_image` refuses it.
    """
    return decode_image(read_encoded(path), str(path), max_pixels)


def read_encoded(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        UnreadableImage: it is missing, no plain file, or too large to be a face crop.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage(str(path), "not a plain file")
        if status.st_size > MAX_IMAGE_BYTES:
            raise UnreadableImage(str(path), f"{status.st_size} bytes are too many for an image")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(str(path), error.strerror or str(error)) from None


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image to (H, W, 3) uint8 RGB, upright as its EXIF data says.

    Args:
        data: an encoded image.
        name: what to call it in messages.
        max_pixels: an image of more is refused before its pixels are unpacked.

    Raises:
        UnreadableImage: it is empty, truncated, no image of a known kind, or too large.
    """
    try:
        with Image.open(BytesIO(data), formats=IMAGE_KINDS) as image:
            if image.width * image.height <= max_pixels:
                return np.array(ImageOps.exif_transpose(image).convert("RGB"))
            reason = f"{image.width}x{image.height} pixels are too many for a face crop"
    except UnidentifiedImageError:
        reason = "not an image of a known kind" if data else "the file is empty"
    except Exception as error:  # decoders raise errors of many kinds for hostile files
        reason = str(error) or type(error).__name__
    raise UnreadableImage(name, reason)


def encoded_image(source: FaceSource, index: int) -> bytes:
    """An image of a source as it is stored, or as PNG where it is not stored encoded.

    Raises:
        UnreadableImage: it cannot be read.
    """
    encoded = getattr(source, "encoded", None)
    if encoded is not None:
        return encoded(index)
    file = BytesIO()
    Image.fromarray(source.image(index)).save(file, "PNG")
    return file.getvalue()


def printable(text: str) -> str:
    """Text that any terminal and file takes: what is no Unicode in a file's name is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def open_folder(root: Path) -> FileSource:
    """A folder with a folder per identity; images may lie deeper. Hidden files and links out are left.

    Raises:
        ValueError: it holds no images, or images of fewer than two identities.
    """
    paths, names = [], []
    identities = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    inside = root.resolve()
    for identity in identities:
        for path in sorted(identity.rglob("*")):
            if is_image_name(path) and inside in path.resolve().parents:
                paths.append(str(path.relative_to(root)))
                names.append(identity.name)
    if not paths:
        raise ValueError(
            f"{root} holds no images in folders of identities; expected files such as "
            f"{root / 'some_name' / 'photo.jpg'}"
        )
    return FileSource(root, paths, names)


def is_image_name(path: Path) -> bool:
    """Whether a file is an image by its suffix, and not hidden."""
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def open_list(path: Path, root: Path | None = None) -> FileSource:
    """A list file: a line "path label" an image, paths relative to the list's folder or to `root`.

    Args:
        path: the list, UTF-8; empty lines and lines that begin with # are left out.
        root: what the paths start from.

    Raises:
        ValueError: a line is malformed or leaves the folder (file and line are named), or `FileSource`.
    """
    root = path.parent if root is None else root
    paths, names = [], []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.rsplit(maxsplit=1)
        if len(parts) != 2:
            raise ValueError(f"{path}:{number}: expected 'path label', got {line.strip()[:80]!r}")
        image, label = parts
        paths.append(inside_path(image.strip(), root, f"{path}:{number}"))
        names.append(label.zfill(10) if label.isdigit() else label)  # numbers sort as numbers
    if not paths:
        raise ValueError(f"{path} lists no images; expected lines of 'path label'")
    return FileSource(root, paths, names)


def inside_path(text: str, root: Path, where: str) -> str:
    """`text` as a path below `root`.

    Raises:
        ValueError: it leads out of `root`; `where` says where it stands.
    """
    try:
        inside, target = root.resolve(), (root / text).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
        raise ValueError(f"{where}: {text[:80]!r} is no path: {error}") from None
    if any(len(part.encode()) > MAX_NAME_BYTES for part in Path(text).parts):
        raise ValueError(f"{where}: {text[:80]!r}... is too long for a file's name")
    if inside not in target.parents:
        raise ValueError(f"{where}: {text[:80]!r} leads out of {root}; paths must stay below it")
    return text


def read_lines(path: Path) -> list[str]:
    """Lines of a text file.

    Raises:
        ValueError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text (byte {error.start})") from None
