"""A source in a few numbers, so that a resumed run notices if its images have changed."""

import hashlib
import stat
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from fusedface.data.sources import FaceSource, Images

MAX_READ = 256 * 2**20  # bytes of all files, which a machine reads in a second or two
MISSING = (-1, 0)


def fingerprint(source: FaceSource) -> dict[str, Any]:
    """Sizes, a digest of all labels and class names, and a digest of the files.

    Small sets are recognised by the bytes of their files, larger ones by the size and time of each
    file; the entry "by" says which. Generated faces have no files, since the recipe describes them.
    """
    digest = hashlib.sha256(np.ascontiguousarray(source.labels, dtype=np.int64).tobytes())
    for name in source.class_names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return {
        "num_images": len(source),
        "num_identities": source.num_classes,
        "digest": digest.hexdigest(),
        **fingerprint_of_files(source),
    }


def changed_images(before: object, now: dict[str, Any]) -> str | None:
    """How the images differ from those of an earlier fingerprint; None if they do not.

    Args:
        before: the earlier fingerprint, as a checkpoint holds it; None if the checkpoint has none.
        now: the present one.
    """
    if before is None:
        return None
    if not _is_fingerprint(before):
        return "the checkpoint does not say which they were"
    then, today = (
        f"{data['num_images']:,} images of {data['num_identities']:,} people"
        for data in (before, now)
    )
    if then != today:
        return f"{then} then, {today} now"
    if before["digest"] != now["digest"]:
        return f"{then}, but other ones"
    if before.get("by") != now.get("by"):  # one has grown beyond MAX_READ, or lacks the entry
        return f"{then}, but their files have other sizes" if before.get("by") else None
    if before.get("files") == now.get("files"):
        return None
    what = "other content" if now["by"] == "content" else "other sizes or times of change"
    return f"{then}, but their files have {what}"


def _is_fingerprint(value: object) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(value, dict)
        and all(type(value.get(key)) is int for key in ("num_images", "num_identities"))
        and all(type(value.get(key, "")) is str for key in ("digest", "by", "files"))
        and "digest" in value
    )


def fingerprint_of_files(images: Images) -> dict[str, str]:
    """The digest of the files of some images, as `fingerprint` takes it; empty without files."""
    paths = list(images.files())
    if not paths:
        return {}
    stats = [_size_and_time(path) for path in paths]
    by_content = sum(size for size, _ in stats) <= MAX_READ
    digest = hashlib.sha256()
    for path, (size, time) in zip(paths, stats, strict=True):
        digest.update(f"{size} {'' if by_content else time}\0".encode())
        if by_content and size > 0:
            digest.update(_content(path))
    return {"by": "content" if by_content else "size and time", "files": digest.hexdigest()}


def _size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and nanoseconds of a file; MISSING if it does not exist or cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return MISSING
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else MISSING


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
