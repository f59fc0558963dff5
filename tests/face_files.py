"""Small image folders for tests."""

import numpy as np
from PIL import Image


def write_image(path, color=(120, 90, 60), size=(112, 112)):
    """A picture with a left-to-right ramp, so that a mirror image differs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 1, size[1])[None, :, None] * np.array(color)[None, None, :]
    pixels = np.broadcast_to(ramp, (*size, 3)).astype(np.uint8)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return pixels


def write_people(root, names=("ann", "bob", "cyd"), images=3, suffix=".png"):
    """root/name/name_0001.png and so on; returns the root."""
    for i, name in enumerate(names):
        for k in range(1, images + 1):
            write_image(
                root / name / f"{name}_{k:04d}{suffix}", (40 * i + 60, 30 * k, 200 - 40 * i)
            )
    return root
