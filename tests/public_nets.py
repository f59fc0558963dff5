"""Public networks restated as functions of their plain state_dict, to hold this project's layouts to.

Nothing of this project's layouts or backbones is used for them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


class Net:
    """Runs a state_dict; where it is None, draws one by asking for each tensor as it is used."""

    def __init__(self, state: State | None = None) -> None:
        self.drawing, self.state = state is None, state or {}
        self.generator = torch.Generator().manual_seed(3)

    def get(self, name: str, *shape: int) -> Tensor:
        if self.drawing:
            fan = max(1, torch.Size(shape[1:]).numel())
            value = torch.randn(shape, generator=self.generator) / fan**0.5
            self.state[name] = value.abs() + 0.5 if name.endswith("running_var") else value
        assert self.state[name].shape == shape, name
        return self.state[name]

    def bn(self, x: Tensor, name: str) -> Tensor:
        C = x.shape[1]
        fields = [
            self.get(f"{name}.{f}", C) for f in ("running_mean", "running_var", "weight", "bias")
        ]
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(9))
        return F.batch_norm(x, *fields)

    def conv(
        self, x: Tensor, name: str, out: int, k, stride=1, padding=0, groups=1, bias=False
    ) -> Tensor:
        height, width = k if isinstance(k, tuple) else (k, k)
        weight = self.get(f"{name}.weight", out, x.shape[1] // groups, height, width)
        added = self.get(f"{name}.bias", out) if bias else None
        return F.conv2d(x, weight, added, stride, padding, groups=groups)

    def prelu(self, x: Tensor, name: str) -> Tensor:
        return F.prelu(x, self.get(f"{name}.weight", x.shape[1]))


# Two of the MobileFaceNets: expansion, channels, repeats and first stride of the bottlenecks.
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def mobilefacenet_relu6(net: Net, x: Tensor, D=128, stem=F.relu) -> Tensor:
    """The package mobilefacenet-pytorch: ReLU6 everywhere but in both halves of `dw_conv`.

    Args:
        net: its tensors.
        x: (B, 3, 112, 112).
        D: of the embeddings.
        stem: the activation of `dw_conv`; another one makes a wrong network, to tell it from.
    """

    def conv_bn_relu6(x, name, *args):
        return F.relu6(net.bn(net.conv(x, f"{name}.0", *args), f"{name}.1"))

    x = conv_bn_relu6(x, "conv1", 64, 3, 2, 1)
    x = stem(net.bn(net.conv(x, "dw_conv.depthwise", 64, 3, 1, 1, 64), "dw_conv.bn1"))
    x = stem(net.bn(net.conv(x, "dw_conv.pointwise", 64, 1), "dw_conv.bn2"))
    for i, (hidden, out, stride) in enumerate(_bottlenecks()):
        name = f"features.{i}.conv"
        y = conv_bn_relu6(x, f"{name}.0", hidden, 1)
        y = conv_bn_relu6(y, f"{name}.1", hidden, 3, stride, 1, hidden)
        y = net.bn(net.conv(y, f"{name}.2", out, 1), f"{name}.3")
        x = x + y if x.shape == y.shape else y
    x = conv_bn_relu6(x, "conv2", 512, 1)
    x = net.bn(net.conv(x, "gdconv.depthwise", 512, 7, 1, 0, 512), "gdconv.bn")
    return net.bn(net.conv(x, "conv3", D, 1, bias=True), "bn").flatten(1)


def mobilefacenet_prelu(net: Net, x: Tensor, D=128) -> Tensor:
    """Xiaoccer/MobileFaceNet_Pytorch, (B, 3, 112, 96)."""

    def conv_block(x, name, *args):
        x = net.bn(net.conv(x, f"{name}.conv", *args), f"{name}.bn")
        return net.prelu(x, f"{name}.prelu")

    x = conv_block(x, "conv1", 64, 3, 2, 1)
    x = conv_block(x, "dw_conv1", 64, 3, 1, 1, 64)
    for i, (hidden, out, stride) in enumerate(_bottlenecks()):
        name = f"blocks.{i}.conv"
        y = net.bn(net.conv(x, f"{name}.0", hidden, 1), f"{name}.1")
        y = net.conv(net.prelu(y, f"{name}.2"), f"{name}.3", hidden, 3, stride, 1, hidden)
        y = net.prelu(net.bn(y, f"{name}.4"), f"{name}.5")
        y = net.bn(net.conv(y, f"{name}.6", out, 1), f"{name}.7")
        x = x + y if x.shape == y.shape else y
    x = conv_block(x, "conv2", 512, 1)
    x = net.bn(net.conv(x, "linear7.conv", 512, (7, 6), 1, 0, 512), "linear7.bn")
    return net.bn(net.conv(x, "linear1.conv", D, 1), "linear1.bn").flatten(1)


def mobilefacenet_gdc(net: Net, x: Tensor, D=128) -> Tensor:
    """bubbliiiing/arcface-pytorch, (B, 3, 112, 112)."""

    def conv_block(x, name, *args):
        x = net.bn(net.conv(x, f"{name}.conv", *args), f"{name}.bn")
        return net.prelu(x, f"{name}.prelu")

    def residual_block(x, name, hidden, out, stride):
        y = conv_block(x, f"{name}.conv", hidden, 1)
        y = conv_block(y, f"{name}.conv_dw", hidden, 3, stride, 1, hidden)
        return net.bn(net.conv(y, f"{name}.project.conv", out, 1), f"{name}.project.bn")

    x = conv_block(x, "arcface.conv1", 64, 3, 2, 1)
    x = conv_block(x, "arcface.conv2_dw", 64, 3, 1, 1, 64)
    for first, then, repeats, out, wide, hidden in (
        ("conv_23", "conv_3", 4, 64, 128, 128),
        ("conv_34", "conv_4", 6, 128, 256, 256),
        ("conv_45", "conv_5", 2, 128, 512, 256),
    ):
        x = residual_block(x, f"arcface.{first}", wide, out, 2)
        for i in range(repeats):
            x = x + residual_block(x, f"arcface.{then}.model.{i}", hidden, out, 1)
    x = net.bn(net.conv(x, "arcface.sep", 512, 1), "arcface.sep_bn")
    x = net.prelu(x, "arcface.prelu")
    x = net.bn(net.conv(x, "arcface.GDC_dw", 512, 7, 1, 0, 512), "arcface.GDC_bn")
    return net.bn(net.conv(x, "arcface.features", D, 1), "arcface.last_bn").flatten(1)


def _bottlenecks() -> list[tuple[int, int, int]]:
    """Hidden channels, output channels and stride of each."""
    channels, rows = 64, []
    for expansion, out, repeats, first in BOTTLENECKS:
        for i in range(repeats):
            rows.append((expansion * channels, out, first if i == 0 else 1))
            channels = out
    return rows
