"""Public MobileFaceNet checkpoints: what they call our tensors, and how their images were prepared.

Every name is written out or generated from a block's number; nothing is matched by likeness.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fusedface.models.preprocessing import Preprocessing

NUM_BOTTLENECKS = 15
BN_FIELDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Layout:
    """A public checkpoint layout.

    Attributes:
        name: what users see.
        wrapper: key of the file's dictionary that holds the tensors, if it is not the tensors itself.
        marker: a tensor name that no other layout has.
        config: `create(**config)` builds the backbone.
        preprocessing: with which the checkpoint was trained and evaluated.
        names: returns their name -> our name, of every tensor.
    """

    name: str
    wrapper: str | None
    marker: str
    config: dict[str, Any]
    preprocessing: Preprocessing
    names: Callable[[], dict[str, str]]


def _unit(ours: str, conv: str, bn: str, prelu: str | None = None) -> dict[str, str]:
    """Names of a convolution, its BN and its PReLU; arguments are module paths."""
    names = {f"{conv}.weight": f"{ours}.conv.weight"}
    names.update({f"{bn}.{field}": f"{ours}.bn.{field}" for field in BN_FIELDS})
    if prelu is not None:
        names[f"{prelu}.weight"] = f"{ours}.act.weight"
    return names


def _prelu_names() -> dict[str, str]:
    names: dict[str, str] = {}
    for ours, theirs in (("stem", "conv1"), ("stem_depthwise", "dw_conv1"), ("final", "conv2")):
        names |= _unit(ours, f"{theirs}.conv", f"{theirs}.bn", f"{theirs}.prelu")
    for ours, theirs in (("gdconv", "linear7"), ("embedding", "linear1")):
        names |= _unit(ours, f"{theirs}.conv", f"{theirs}.bn")
    for i in range(NUM_BOTTLENECKS):
        ours, theirs = f"blocks.{i}", f"blocks.{i}.conv"
        names |= _unit(f"{ours}.expand", f"{theirs}.0", f"{theirs}.1", f"{theirs}.2")
        names |= _unit(f"{ours}.depthwise", f"{theirs}.3", f"{theirs}.4", f"{theirs}.5")
        names |= _unit(f"{ours}.project", f"{theirs}.6", f"{theirs}.7")
    return names


def _relu6_names() -> dict[str, str]:
    names = {
        **_unit("stem", "conv1.0", "conv1.1"),
        **_unit("stem_depthwise", "dw_conv.depthwise", "dw_conv.bn1"),
        **_unit("stem_pointwise", "dw_conv.pointwise", "dw_conv.bn2"),
        **_unit("final", "conv2.0", "conv2.1"),
        **_unit("gdconv", "gdconv.depthwise", "gdconv.bn"),
        **_unit("embedding", "conv3", "bn"),
        "conv3.bias": "embedding.conv.bias",
    }
    for i in range(NUM_BOTTLENECKS):
        ours, theirs = f"blocks.{i}", f"features.{i}.conv"
        names |= _unit(f"{ours}.expand", f"{theirs}.0.0", f"{theirs}.0.1")
        names |= _unit(f"{ours}.depthwise", f"{theirs}.1.0", f"{theirs}.1.1")
        names |= _unit(f"{ours}.project", f"{theirs}.2", f"{theirs}.3")
    return names


PRELU_112X96 = Layout(
    name="mobilefacenet-prelu-112x96",  # Xiaoccer/MobileFaceNet_Pytorch, CASIA-WebFace
    wrapper="net_state_dict",
    marker="linear7.conv.weight",
    config={"name": "mobilefacenet", "embedding_dim": 128, "input_size": (112, 96)},
    preprocessing=Preprocessing(
        std=(128.0, 128.0, 128.0), input_size=(112, 96), flip="concat", crop="center"
    ),
    names=_prelu_names,
)

RELU6_112X112 = Layout(
    name="mobilefacenet-relu6-112x112",  # the package mobilefacenet-pytorch
    wrapper=None,
    marker="dw_conv.pointwise.weight",
    config={
        "name": "mobilefacenet",
        "embedding_dim": 128,
        "input_size": (112, 112),
        "activation": "relu6",
        "stem_pointwise": True,
        "embedding_bias": True,
    },
    preprocessing=Preprocessing(  # ImageNet's statistics, in grey levels
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
    ),
    names=_relu6_names,
)

LAYOUTS = (PRELU_112X96, RELU6_112X112)
