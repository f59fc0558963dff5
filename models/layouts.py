"""Public checkpoints: how to tell them apart, and how their images were prepared."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fusedface.models.iresnet import BLOCKS_PER_STAGE, STAGES
from fusedface.models.mbf import MBF, MBFLarge
from fusedface.models.preprocessing import Preprocessing
from fusedface.models.tensor_names import (
    gdc_names,
    iresnet_names,
    mbf_names,
    prelu_names,
    relu6_names,
)


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


PRELU_112X96 = Layout(
    name="mobilefacenet-prelu-112x96",  # Xiaoccer/MobileFaceNet_Pytorch, CASIA-WebFace
    wrapper="net_state_dict",
    marker="linear7.conv.weight",
    embedding="linear1.conv.weight",
    config={"name": "mobilefacenet", "input_size": (112, 96)},
    preprocessing=Preprocessing(
        std=(128.0, 128.0, 128.0), input_size=(112, 96), flip="concat", crop="center"
    ),
    names=prelu_names,
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
    names=relu6_names,
)

PRELU_112X112 = Layout(
    name="mobilefacenet-prelu-112x112",  # bubbliiiing/arcface-pytorch
    wrapper=None,
    marker="arcface.GDC_dw.weight",
    embedding="arcface.features.weight",
    config={"name": "mobilefacenet", "input_size": (112, 112)},
    preprocessing=Preprocessing(),
    names=gdc_names,
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
    names=lambda: mbf_names(MBF.repeats),
)

INSIGHTFACE_MBF_LARGE = replace(
    INSIGHTFACE_MBF,
    name="insightface-mbf-large",
    marker="layers.1.layers.0.layers.0.layers.0.weight",
    config={"name": "mbf_large", "input_size": (112, 112)},
    names=lambda: mbf_names(MBFLarge.repeats),
)

INSIGHTFACE_R18 = Layout(
    name="insightface-r18",
    wrapper="state_dict_backbone",
    marker="layer1.0.prelu.weight",
    embedding="fc.weight",
    config={"name": "iresnet18", "input_size": (112, 112)},
    preprocessing=Preprocessing(),
    names=lambda: iresnet_names(len(STAGES), BLOCKS_PER_STAGE),
)

LAYOUTS = (
    PRELU_112X96,
    PRELU_112X112,
    RELU6_112X112,
    INSIGHTFACE_MBF,
    INSIGHTFACE_MBF_LARGE,
    INSIGHTFACE_R18,
)
