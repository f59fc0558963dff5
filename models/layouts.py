"""Public checkpoints: their names of our tensors, and how their images were prepared.

Every name is written out or generated from a block's number; none is guessed by similarity.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fusedface.models.iresnet import BLOCKS_PER_STAGE, STAGES
from fusedface.models.mbf import MBF, MBFLarge
from fusedface.models.preprocessing import Preprocessing

NUM_BOTTLENECKS = 15
BN_FIELDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Layout:
    """A public checkpoint layout.

    Attributes:
        name: what users see.
        wrapper: key under which the file's dictionary holds the tensors; None if it is the tensors.
        marker: a tensor name that no other layout has.
        embedding: their name of a tensor (D, ...); public recipes differ in D only.
        config: `create(**config, embedding_dim=D)` builds the backbone.
        preprocessing: with which the checkpoint was trained and evaluated.
        names: returns their name -> our name, for every tensor.
        head: their name of the class centres (C, D), where a file holds them among the backbone's tensors.
    """

    name: str
    wrapper: str | None
    marker: str
    embedding: str
    config: dict[str, Any]
    preprocessing: Preprocessing
    names: Callable[[], dict[str, str]]
    head: str | None = None


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


def _gdc_names() -> dict[str, str]:
    """A stage is a strided bottleneck, conv_23, conv_34, conv_45, and repeats, conv_3, conv_4, conv_5."""
    names: dict[str, str] = {}
    for ours, theirs in (("stem", "conv1"), ("stem_depthwise", "conv2_dw")):
        names |= _unit(ours, f"{theirs}.conv", f"{theirs}.bn", f"{theirs}.prelu")
    names |= _unit("final", "sep", "sep_bn", "prelu") | _unit("gdconv", "GDC_dw", "GDC_bn")
    names |= _unit("embedding", "features", "last_bn")
    stages = (("conv_23", "conv_3", 4), ("conv_34", "conv_4", 6), ("conv_45", "conv_5", 2))
    bottlenecks = [
        name
        for strided, repeated, repeats in stages
        for name in (strided, *(f"{repeated}.model.{i}" for i in range(repeats)))
    ]
    for i, theirs in enumerate(bottlenecks):
        for ours, part in (("expand", "conv"), ("depthwise", "conv_dw")):
            prefix = f"{theirs}.{part}"
            names |= _unit(
                f"blocks.{i}.{ours}", f"{prefix}.conv", f"{prefix}.bn", f"{prefix}.prelu"
            )
        names |= _unit(f"blocks.{i}.project", f"{theirs}.project.conv", f"{theirs}.project.bn")
    return {f"arcface.{theirs}": ours for theirs, ours in names.items()}


def _bn(ours: str, theirs: str) -> dict[str, str]:
    return {f"{theirs}.{field}": f"{ours}.{field}" for field in BN_FIELDS}


def _mbf_names(repeats: tuple[int, int, int, int]) -> dict[str, str]:
    """insightface numbers layers by stage: the first convolution, its repeats, (strided, repeats) x 3."""

    def conv_block(ours: str, theirs: str) -> dict[str, str]:
        return _unit(ours, f"{theirs}.0", f"{theirs}.1", f"{theirs}.2")

    def bottleneck(ours: str, theirs: str) -> dict[str, str]:
        return (
            conv_block(f"{ours}.expand", f"{theirs}.0.layers")
            | conv_block(f"{ours}.depthwise", f"{theirs}.1.layers")
            | _unit(f"{ours}.project", f"{theirs}.2.layers.0", f"{theirs}.2.layers.1")
        )

    first, *later = repeats
    names = conv_block("stem", "layers.0.layers") | conv_block("final", "conv_sep.layers")
    if first == 1:
        names |= conv_block("stem_grouped", "layers.1.layers")
    else:
        for i in range(first):
            names |= bottleneck(f"stem_grouped.{i}", f"layers.1.layers.{i}.layers")
    block = 0
    for stage, repeat in enumerate(later):
        names |= bottleneck(f"blocks.{block}", f"layers.{2 + 2 * stage}.layers")
        for i in range(repeat):
            names |= bottleneck(
                f"blocks.{block + 1 + i}", f"layers.{3 + 2 * stage}.layers.{i}.layers"
            )
        block += 1 + repeat
    names |= _unit("gdconv", "features.layers.0.layers.0", "features.layers.0.layers.1")
    names["features.layers.2.weight"] = "embedding.linear.weight"
    return names | _bn("embedding.bn", "features.layers.3")


def _r18_names() -> dict[str, str]:
    names = _unit("stem", "conv1", "bn1", "prelu") | _bn("bn", "bn2")
    for stage in range(len(STAGES)):
        for i in range(BLOCKS_PER_STAGE):
            ours, theirs = f"blocks.{BLOCKS_PER_STAGE * stage + i}", f"layer{stage + 1}.{i}"
            names |= _bn(f"{ours}.bn", f"{theirs}.bn1")
            names |= _unit(f"{ours}.conv1", f"{theirs}.conv1", f"{theirs}.bn2", f"{theirs}.prelu")
            names |= _unit(f"{ours}.conv2", f"{theirs}.conv2", f"{theirs}.bn3")
        strided, theirs = f"blocks.{BLOCKS_PER_STAGE * stage}", f"layer{stage + 1}.0.downsample"
        names |= _unit(f"{strided}.shortcut", f"{theirs}.0", f"{theirs}.1")
    names |= {f"fc.{field}": f"embedding.linear.{field}" for field in ("weight", "bias")}
    return names | _bn("embedding.bn", "features")


PRELU_112X96 = Layout(
    name="mobilefacenet-prelu-112x96",  # Xiaoccer/MobileFaceNet_Pytorch, CASIA-WebFace
    wrapper="net_state_dict",
    marker="linear7.conv.weight",
    embedding="linear1.conv.weight",
    config={"name": "mobilefacenet", "input_size": (112, 96)},
    preprocessing=Preprocessing(
        std=(128.0, 128.0, 128.0), input_size=(112, 96), flip="concat", crop="center"
    ),
    names=_prelu_names,
)

RELU6_112X112 = Layout(
    name="mobilefacenet-relu6-112x112",  # the package mobilefacenet-pytorch
    wrapper=None,
    marker="dw_conv.pointwise.weight",
    embedding="conv3.weight",
    config={
        "name": "mobilefacenet",
        "input_size": (112, 112),
        "activation": "relu6",
        "stem_activation": "relu",
        "stem_pointwise": True,
        "embedding_bias": True,
    },
    preprocessing=Preprocessing(  # ImageNet's statistics, in grey levels
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
    ),
    names=_relu6_names,
)

PRELU_112X112 = Layout(
    name="mobilefacenet-prelu-112x112",  # bubbliiiing/arcface-pytorch
    wrapper=None,
    marker="arcface.GDC_dw.weight",
    embedding="arcface.features.weight",
    config={"name": "mobilefacenet", "input_size": (112, 112)},
    preprocessing=Preprocessing(),
    names=_gdc_names,
    head="head.weight",
)

# insightface, recognition/arcface_torch: a bare state_dict (model.pt, backbone.pth), or the training
# checkpoint of one GPU, which wraps it. Its verification sums the features of both mirror images.
INSIGHTFACE_MBF = Layout(
    name="insightface-mbf",
    wrapper="state_dict_backbone",
    marker="layers.1.layers.0.weight",
    embedding="features.layers.2.weight",
    config={"name": "mbf", "input_size": (112, 112)},
    preprocessing=Preprocessing(),
    names=lambda: _mbf_names(MBF.repeats),
)

INSIGHTFACE_MBF_LARGE = replace(
    INSIGHTFACE_MBF,
    name="insightface-mbf-large",
    marker="layers.1.layers.0.layers.0.layers.0.weight",
    config={"name": "mbf_large", "input_size": (112, 112)},
    names=lambda: _mbf_names(MBFLarge.repeats),
)

INSIGHTFACE_R18 = Layout(
    name="insightface-r18",
    wrapper="state_dict_backbone",
    marker="layer1.0.prelu.weight",
    embedding="fc.weight",
    config={"name": "iresnet18", "input_size": (112, 112)},
    preprocessing=Preprocessing(),
    names=_r18_names,
)

LAYOUTS = (
    PRELU_112X96,
    PRELU_112X112,
    RELU6_112X112,
    INSIGHTFACE_MBF,
    INSIGHTFACE_MBF_LARGE,
    INSIGHTFACE_R18,
)
