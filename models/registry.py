"""The backbones by name, and the record of a backbone's options."""

import difflib
import inspect
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fusedface.models.backbone import Backbone
from fusedface.models.blocks import Activation
from fusedface.models.edgeface import EdgeFaceS, EdgeFaceXS
from fusedface.models.ghostfacenet import GhostFaceNetV1S1, GhostFaceNetV1S2
from fusedface.models.iresnet import IResNet18
from fusedface.models.mbf import MBF, MBFLarge
from fusedface.models.mobilefacenet import MobileFaceNet, MobileFaceNetReLU
from fusedface.models.preprocessing import Crop, Flip

LARGEST_GREY = 1e4
"""The largest `mean` or `std` that is accepted; images have 256 grey levels."""

MODELS: dict[str, type[Backbone]] = {
    model.name: model
    for model in (
        MobileFaceNet,
        MobileFaceNetReLU,
        MBF,
        MBFLarge,
        IResNet18,
        GhostFaceNetV1S1,
        GhostFaceNetV1S2,
        EdgeFaceXS,
        EdgeFaceS,
    )
}


def create(name: str, **options: Any) -> Backbone:
    """Build a backbone with freshly drawn weights.

    Args:
        name: a key of `MODELS`.
        options: arguments of that class. All take `embedding_dim`, `input_size` and `width`; arguments
            that are left out are as published (embedding_dim 128 for mobilefacenet, 512 for the others).

    Raises:
        ValueError: the name or an option is unknown (the nearest valid one is named), or an option
            is outside its range.
    """
    if name not in MODELS:
        raise ValueError(f"unknown backbone {name!r}{_hint(name, list(MODELS))}")
    model = MODELS[name]
    valid = list(inspect.signature(model).parameters)
    for key in options:
        if key not in valid:
            raise ValueError(f"backbone {name!r} has no option {key!r}{_hint(key, valid)}")
    return model(**options)


def _hint(wrong: str, valid: list[str]) -> str:
    """The end of a message on an unknown name: the nearest valid name, and all names."""
    nearest = difflib.get_close_matches(str(wrong), valid, n=1)
    question = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    return f"{question} It is one of: {', '.join(valid)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneOptions:
    """The network, by its name in `MODELS`, and its preprocessing.

    A setting that is none or false keeps the network's own default.
    """

    name: str = "mobilefacenet"
    """A key of `MODELS`."""
    embedding_dim: int = 128
    """D, the number of dimensions of an embedding."""
    input_size: tuple[int, int] = (112, 112)
    """Height and width in pixels, multiples of 16."""
    width: float = 1.0
    """Factor on the channel counts of the network; 1 is the published width."""
    activation: Activation | None = None
    """For mobilefacenet: the activation after its convolutions."""
    stem_activation: Activation | None = None
    """For mobilefacenet: the activation between the first convolution and the bottlenecks; none takes
    `activation`."""
    stem_pointwise: bool = False
    """For mobilefacenet: whether a 1x1 convolution follows the depthwise convolution of the stem."""
    embedding_bias: bool = False
    """For mobilefacenet: whether the embedding convolution has a bias."""
    mean: tuple[float, float, float] | None = None
    """Mean of R, G and B in grey levels (0 to 255); it is subtracted from the image."""
    std: tuple[float, float, float] | None = None
    """Scale of R, G and B in grey levels; the image is divided by it after `mean` is subtracted."""
    flip: Flip | None = None
    """How verification joins the features of an image and its mirror image: "sum" or "concat"."""
    crop: Crop | None = None
    """Images larger than `input_size`: "center" cuts out the centre, "none" refuses them."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name) or ()
            fits = all(abs(value) <= LARGEST_GREY for value in values)
            if not fits:
                raise ValueError(
                    f"backbone.{name} must be at most {LARGEST_GREY:g} each, got {values!r}"
                )
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
"""Options of `create` that only some networks have."""
PREPARATION = ("mean", "std", "flip", "crop")
"""Fields of `Preprocessing`."""


@lru_cache
def _check_backbone(options: BackboneOptions) -> None:
    """Raise the backbone's own ValueError if it does not accept the options."""
    # Built on "meta": reading a recipe must not allocate weights or advance the random generators.
    with torch.device("meta"), _NothingDrawn():
        options.build()


class _NothingDrawn(TorchFunctionMode):
    """Leaves out the drawing of weights: of a "meta" tensor it would load torch's compiler, two seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DRAWING or getattr(func, "__module__", None) == torch.nn.init.__name__:
            return None  # these fill a tensor in place, so no caller needs the result
        return func(*args, **(kwargs or {}))


DRAWING = (torch.Tensor.normal_, torch.Tensor.uniform_)
