"""The network of a recipe: its name, its options, and how its images are prepared."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from fusedface.models import Backbone, create
from fusedface.models.blocks import Activation
from fusedface.models.preprocessing import Crop, Flip
from fusedface.recipes.configuration.rules import require

LARGEST_GREY = 1e4
"""The largest mean or deviation: images have 256 grey levels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneOptions:
    """The network, by its name in `fusedface.models.MODELS`, and how its images are prepared.

    What is none, or false, is as the network itself has it.
    """

    name: str = "mobilefacenet"
    """A key of `fusedface.models.MODELS`."""
    embedding_dim: int = 128
    """D, the length of an embedding."""
    input_size: tuple[int, int] = (112, 112)
    """Height and width in pixels, multiples of 16."""
    width: float = 1.0
    """Multiplies the channel counts."""
    activation: Activation | None = None
    """For mobilefacenet: after its convolutions."""
    stem_activation: Activation | None = None
    """For mobilefacenet: between the first convolution and the bottlenecks; none: `activation`."""
    stem_pointwise: bool = False
    """For mobilefacenet: a 1x1 convolution after the depthwise one of the stem."""
    embedding_bias: bool = False
    """For mobilefacenet: a bias in the embedding convolution."""
    mean: tuple[float, float, float] | None = None
    """Subtracted from R, G and B, in grey levels."""
    std: tuple[float, float, float] | None = None
    """Divides R, G and B after that, in grey levels."""
    flip: Flip | None = None
    """How verification joins the features of both mirror images."""
    crop: Crop | None = None
    """What is done with images larger than `input_size`: "center" cuts, "none" refuses them."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name) or ()
            fits = all(abs(value) <= LARGEST_GREY for value in values)
            require(f"backbone.{name}", values, fits, f"at most {LARGEST_GREY:g} each")
        _check_backbone(self)

    def build(self) -> Backbone:
        """The network, with freshly drawn weights and its preprocessing."""
        model = create(
            self.name,
            embedding_dim=self.embedding_dim,
            input_size=self.input_size,
            width=self.width,
            **self._given(OPTIONS),
        )
        model.preprocessing = replace(model.preprocessing, **self._given(PREPARATION))
        return model

    def _given(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name))}


OPTIONS = ("activation", "stem_activation", "stem_pointwise", "embedding_bias")
"""Options of `fusedface.models.create` that only some networks have."""
PREPARATION = ("mean", "std", "flip", "crop")
"""Fields of `fusedface.models.Preprocessing`."""


@lru_cache
def _check_backbone(options: BackboneOptions) -> None:
    """Raise the ValueError of whatever the backbone itself does not accept."""
    # Without its weights: reading a recipe must neither fill the memory nor move anyone's random numbers.
    with torch.device("meta"):
        options.build()
