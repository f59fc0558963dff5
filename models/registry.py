"""The backbones by name."""

import difflib
import inspect
from typing import Any

from fusedface.models.backbone import Backbone
from fusedface.models.edgeface import EdgeFaceS, EdgeFaceXS
from fusedface.models.ghostfacenet import GhostFaceNetV1S1, GhostFaceNetV1S2
from fusedface.models.iresnet import IResNet18
from fusedface.models.mbf import MBF, MBFLarge
from fusedface.models.mobilefacenet import MobileFaceNet, MobileFaceNetReLU

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
