"""Read and decode image files, or refuse them with their name; shared by every kind of source."""

import stat
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

_T = TypeVar("_T")

# Pillow warns about large images; `decode_image` refuses even smaller ones.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})
# Endings of formats that are not read; the message on a folder of them names the format.
FOREIGN_SUFFIXES = frozenset(
    {".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".pcx"}
)
# How files of such formats begin, even under another name: byte offset, bytes, format.
FOREIGN_BEGINNINGS = (
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
)
# No others: Pillow would hand an EPS file to Ghostscript, which runs it.
IMAGE_KINDS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
# An aligned face has 12,544 pixels. A file that unpacks to more than this many is not a face crop, and may
# be an attempt to fill the memory.
MAX_PIXELS = 16_000_000
MAX_IMAGE_BYTES = 1 << 26  # 64 MiB, more than MAX_PIXELS take uncompressed


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


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file; see `decode_image`.

    Raises:
        UnreadableImage: it is missing, not a plain file, or `decode_image` refuses it.
    """
    return decode_image(read_encoded(path), str(path), max_pixels)


def read_encoded(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        UnreadableImage: it is missing, not a plain file, or too large to be a face crop.
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

    Of 16 bits per channel the upper eight are kept, in grey and in colour images.

    Args:
        data: an encoded image.
        name: its name in messages.
        max_pixels: an image with more is refused before its pixels are unpacked.

    Raises:
        UnreadableImage: it is empty, truncated, of an unknown format, or too large.
    """
    return _opened(data, name, lambda image: _rgb(ImageOps.exif_transpose(image)), max_pixels)


def image_size(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(H, W) of the image that `decode_image` would return, from the file's header.

    Raises:
        UnreadableImage: it is empty, of an unknown format, or too large.
    """
    return _opened(data, name, _upright_size, max_pixels)


def _opened(data: bytes, name: str, use: Callable[[Image.Image], _T], max_pixels: int) -> _T:
    try:
        with Image.open(BytesIO(data), formats=IMAGE_KINDS) as image:
            if image.width * image.height <= max_pixels:
                return use(image)
            reason = f"{image.width}x{image.height} pixels are too many for a face crop"
    except UnidentifiedImageError:
        reason = _what_it_is(data)
    except Exception as error:  # decoders raise errors of many kinds for hostile files
        reason = str(error) or type(error).__name__
    raise UnreadableImage(name, reason)


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose black and white are unknown")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _what_it_is(data: bytes) -> str:
    if not data:
        return "the file is empty"
    for offset, beginning, kind in FOREIGN_BEGINNINGS:
        if data.startswith(beginning, offset):
            return f"a {kind} file, which is not read: convert it to PNG or JPEG"
    return "not an image of a known kind"


def is_image_name(path: Path) -> bool:
    """Whether a file name has the suffix of an image and is not hidden."""
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def files_below(folder: Path) -> list[Path]:
    """What is in a folder, at any depth, sorted; without hidden files and all that is in hidden folders."""
    found = sorted(folder.rglob("*"))
    return [p for p in found if not any(n.startswith(".") for n in p.relative_to(folder).parts)]


def printable(text: str) -> str:
    """Text that can be written anywhere: bytes of a file name that are not Unicode are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
