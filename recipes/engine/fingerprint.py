"""What a run is trained on, in a few numbers, so that a resumed run notices that it has changed."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from fusedface.data import FaceSource


def fingerprint(source: FaceSource) -> dict[str, Any]:
    """Sizes, and a digest of the label of every image and the name of every class; pixels are not read."""
    digest = hashlib.sha256(np.ascontiguousarray(source.labels, dtype=np.int64).tobytes())
    for name in source.class_names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return {
        "num_images": len(source),
        "num_identities": source.num_classes,
        "digest": digest.hexdigest(),
    }


def check_same(before: dict[str, Any] | None, source: FaceSource, folder: Path) -> None:
    """Raise ValueError unless a source is what a run was begun with.

    Args:
        before: its fingerprint then; None of a checkpoint that has none.
        source: the training images as they are now.
        folder: the run directory, for the message.
    """
    now = fingerprint(source)
    if before is None or before == now:
        return
    then, today = (
        f"{data['num_images']:,} images of {data['num_identities']:,} people"
        for data in (before, now)
    )
    changed = f"{then} then, {today} now" if then != today else f"{then}, but other ones"
    raise ValueError(
        f"the training images have changed since the run in {folder} was begun: {changed}. Order and "
        "labels would not be those it has learned from; restore them, or begin anew in another --out"
    )
