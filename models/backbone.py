"""The base of all backbones: checked sizes, a config, and the order of layers."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fusedface.models.preprocessing import Preprocessing

TOTAL_STRIDE = 16  # a backbone here halves its input four times, if it does not say otherwise
# Limits of the options, which come from files that may be hostile.
MAX_WIDTH, MAX_SIDE, MAX_EMBEDDING_DIM = 4.0, 1024, 4096


class Backbone(nn.Module, ABC):
    """Maps images (B, 3, H, W) to embeddings (B, D), not normalised: `embedding` after `features`.

    Attributes:
        embedding: all layers after the last spatial one; the recipes decay them more.
        config: `create(**config)` builds the same architecture again.
        preprocessing: how images become the input of this backbone.

    Args:
        embedding_dim: D >= 1.
        input_size: (H, W), multiples of 16.
        width: multiplies the channel counts, 0 < width <= 4.
        options: further arguments of the subclass, for `config`.

    Raises:
        ValueError: a size is outside its range.
    """

    name: ClassVar[str]
    embedding: nn.Module

    def __init__(
        self, embedding_dim: int, input_size: tuple[int, int], width: float, **options: Any
    ) -> None:
        super().__init__()
        _check_sizes(embedding_dim, input_size, width)
        H, W = input_size
        self.embedding_dim = embedding_dim
        self.input_size = (H, W)
        self.config: dict[str, Any] = {
            "name": self.name,
            "embedding_dim": embedding_dim,
            "input_size": [H, W],
            "width": float(width),
            **options,
        }
        # 112x96 is by convention the middle of the aligned 112x112 face.
        self.preprocessing = Preprocessing(input_size=(H, W), crop="center" if W < H else "none")

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the last feature map."""
        H, W = self.input_size
        return H // TOTAL_STRIDE, W // TOTAL_STRIDE

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Everything before `embedding`."""

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            images: (B, 3, H, W) float, normalised as `preprocessing` says, any memory format.

        Returns:
            (B, D), float32 also under autocast, because the head's cosines need it; float64 for float64.

        Raises:
            ValueError: the images do not have the backbone's input size.
        """
        if images.ndim != 4 or images.shape[1:] != (3, *self.input_size):
            H, W = self.input_size
            raise ValueError(f"images must be (B, 3, {H}, {W}), got {tuple(images.shape)}")
        out = self.embedding(self.features(images)).flatten(1)
        return out.to(torch.promote_types(out.dtype, torch.float32))


def scale_channels(channels: int, width: float, divisor: int = 8) -> int:
    """`channels * width` rounded to the nearest multiple of `divisor`, and at least that."""
    return max(divisor, math.floor(channels * width / divisor + 0.5) * divisor)


def _check_sizes(embedding_dim: int, input_size: tuple[int, int], width: float) -> None:
    if not _is_int(embedding_dim) or not 1 <= embedding_dim <= MAX_EMBEDDING_DIM:
        raise ValueError(
            f"embedding_dim must be an integer from 1 to {MAX_EMBEDDING_DIM}, got {embedding_dim!r}"
        )
    if (
        not isinstance(input_size, tuple | list)
        or len(input_size) != 2
        or not all(_is_int(n) and n % TOTAL_STRIDE == 0 for n in input_size)
        or not all(TOTAL_STRIDE <= n <= MAX_SIDE for n in input_size)
    ):
        raise ValueError(
            f"input_size must be (height, width), both multiples of {TOTAL_STRIDE} up to {MAX_SIDE}, "
            f"for example (112, 112), got {input_size!r}"
        )
    is_number = isinstance(width, int | float) and not isinstance(width, bool)
    if not is_number or not 0 < width <= MAX_WIDTH:
        raise ValueError(f"width must be above 0 and at most {MAX_WIDTH:g}, got {width!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
