"""How a backbone's images are prepared: size, crop, normalisation, and how mirrored features are joined."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, Literal, Self

import torch
from torch import Tensor

Flip = Literal["sum", "concat"]
Crop = Literal["none", "center"]


@dataclass(frozen=True)
class Preprocessing:
    """How uint8 RGB images become a backbone's input.

    The default, (x - 127.5) / 127.5 with summed mirror features, is the usual one of the ArcFace family.

    Args:
        mean: subtracted from each channel, R G B, in grey levels 0..255.
        std: divides each channel after that, in grey levels, above 0.
        input_size: (H, W) of the backbone, pixels.
        flip: how verification joins the features of an image and its mirror image: "sum" (B, D) or
            "concat" (B, 2 D).
        crop: "center" cuts the middle H x W out of larger images (112x112 to 112x96 keeps the
            columns 8..103); "none" takes images of exactly `input_size`.

    Raises:
        ValueError: a value is outside its range.
    """

    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    input_size: tuple[int, int] = (112, 112)
    flip: Flip = "sum"
    crop: Crop = "none"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(
                f"mean and std must have 3 values each, R G B, got {self.mean} and {self.std}"
            )
        if not all(isinstance(v, Real) and math.isfinite(v) for v in (*self.mean, *self.std)):
            raise ValueError(f"mean and std must be finite numbers, got {self.mean} and {self.std}")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std must be above 0 in every channel, got {self.std}")
        if len(self.input_size) != 2 or not all(
            isinstance(size, int) and size >= 1 for size in self.input_size
        ):
            raise ValueError(f"input_size must be (height, width) in pixels, got {self.input_size}")
        if self.flip not in ("sum", "concat"):
            raise ValueError(f"flip must be 'sum' or 'concat', got {self.flip!r}")
        if self.crop not in ("none", "center"):
            raise ValueError(f"crop must be 'none' or 'center', got {self.crop!r}")

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images to give, before the crop: 112x112 for a 112x96 network."""
        side = max(self.input_size)
        return (side, side) if self.crop == "center" else self.input_size

    def images_to_tensor(self, images: Tensor) -> Tensor:
        """Crop and normalise a batch of images.

        Args:
            images: (B, H, W, 3) uint8, RGB, on any device.

        Returns:
            (B, 3, *input_size) float32 on the same device, with channels_last strides: the order the
            bytes came in, so nothing is transposed.

        Raises:
            ValueError: the images are not uint8 (B, H, W, 3), or their size does not fit `input_size`.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"images must be uint8 (B, H, W, 3), got {images.dtype} {tuple(images.shape)}"
            )
        mean, std = (_filled(values, images.device) for values in (self.mean, self.std))
        return ((self._crop(images) - mean) / std).permute(0, 3, 1, 2)

    def _crop(self, images: Tensor) -> Tensor:
        """The middle of (B, H, W, 3) images, or the images themselves where they have the size."""
        height, width = self.input_size
        margins = images.shape[1] - height, images.shape[2] - width
        if margins == (0, 0):
            return images
        if self.crop == "none" or min(margins) < 0:
            rule = "exactly" if self.crop == "none" else "at least"
            raise ValueError(
                f"images must be {rule} {height}x{width} (height x width) for this backbone, "
                f"got {images.shape[1]}x{images.shape[2]}; resize them first"
            )
        top, left = margins[0] // 2, margins[1] // 2
        return images[:, top : top + height, left : left + width]

    def as_dict(self) -> dict[str, Any]:
        """The fields as numbers, strings and lists, for a checkpoint, JSON or TOML."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`.

        Raises:
            ValueError: `values` is not a mapping, or a field is unknown or has a bad value.
        """
        if not isinstance(values, Mapping):
            raise ValueError(  # noqa: TRY004  the file's value, not the caller's type
                f"preprocessing must have names and values, got a {type(values).__name__}"
            )
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise ValueError(f"preprocessing has no field {unknown[0]!r}; its fields are {names}")
        arguments: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        try:
            return cls(**arguments)
        except TypeError as error:
            raise ValueError(f"preprocessing is malformed: {error}") from None


def _filled(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """(3,) float32, filled on the device: a copy of numbers from the host would make it wait for a GPU."""
    return torch.cat([torch.full((1,), value, device=device) for value in values])
