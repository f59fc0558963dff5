"""Augmentation presets, and fitting images to a backbone's input.

An augmented image is a function of the image and of one random generator, so that it does not depend on
worker, order or history. Mirroring is implemented here. The other transforms come from albumentations,
which is imported only if a preset needs it.
"""

import os
from collections.abc import Callable

import numpy as np
from PIL import Image

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
FLIP_PROBABILITY = 0.5
ONLY_MIRRORS = "flip"
"""The preset that does nothing else, so that a device can do it (`FaceBatch.mirrored`)."""
PRESETS = {
    "none": "the image as it is",
    "flip": "mirrored half of the time (what most published recipes use)",
    "crop": "flip, and a random crop of 80 to 100 % of the area scaled back up, in one image of two",
    "color": "flip, and brightness, contrast, saturation and hue, or grey, in one image of two",
    "lowres": "flip, and scaled down to 25 to 75 % and back, in one image of three",
    "blur": "flip, and defocus or motion blur, in one image of three",
    "strong": "all of these, each less often",
}


def augmentation(preset: str, image_size: tuple[int, int]) -> Transform:
    """The augmentation of a preset: maps (H, W, 3) uint8 RGB and a generator to an image of that size.

    Args:
        preset: one of PRESETS.
        image_size: (H, W) of the images.

    Raises:
        ValueError: the preset is unknown, or albumentations, which it needs, is not installed.
    """
    if preset not in PRESETS:
        names = ", ".join(PRESETS)
        raise ValueError(f"augmentation must be one of {names}, got {preset!r}")
    if preset == "none":
        return lambda image, _rng: image
    if preset == ONLY_MIRRORS:
        return _flip
    pipeline = _albumentations(preset, image_size)

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = _flip(image, rng)
        pipeline.set_random_seed(int(rng.integers(2**32)))
        return pipeline(image=image)["image"]

    return transform


def is_mirrored(rng: np.random.Generator) -> bool:
    """Whether an image is mirrored: the first number that its generator draws."""
    return rng.random() < FLIP_PROBABILITY


def _flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image[:, ::-1] if is_mirrored(rng) else image


def _albumentations(preset: str, image_size: tuple[int, int]):
    """The part of a preset that is albumentations'."""
    os.environ.setdefault(
        "NO_ALBUMENTATIONS_UPDATE", "1"
    )  # it would look up its newest version online
    try:
        import albumentations as A
    except ImportError as error:
        raise ValueError(
            f"the augmentation {preset!r} needs albumentations (pip install albumentations); "
            "'none' and 'flip' do not"
        ) from error
    few = preset == "strong"
    crop = A.RandomResizedCrop(
        image_size, scale=(0.8, 1.0), ratio=(0.9, 1.1), p=0.2 if few else 0.5
    )
    jitter = A.ColorJitter((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), (-0.03, 0.03), p=0.9)
    color = A.OneOf([jitter, A.ToGray(p=0.1)], p=0.3 if few else 0.5)
    lowres = A.Downscale(scale_range=(0.25, 0.75), p=0.2 if few else 1 / 3)
    soft = A.GaussianBlur(blur_limit=(3, 5), p=0.5)
    blur = A.OneOf([soft, A.MotionBlur(blur_limit=(3, 7), p=0.5)], p=0.15 if few else 1 / 3)
    parts = {"crop": [crop], "color": [color], "lowres": [lowres], "blur": [blur]}
    parts["strong"] = [crop, color, lowres, blur]
    return A.Compose(parts[preset])


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale an image (H, W, 3) uint8 to `size` (H, W); return the image itself if it has that size."""
    if image.shape[:2] == size:
        return image
    scaled = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(scaled)
