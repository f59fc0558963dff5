"""Parameters and multiply-adds against published figures and against arithmetic by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fusedface.models import count_macs, count_parameters, create

RELU6 = {
    "activation": "relu6",
    "stem_activation": "relu",
    "stem_pointwise": True,
    "embedding_bias": True,
}


@pytest.mark.parametrize(
    ("name", "options", "parameters", "mega_macs"),
    [
        ("mobilefacenet", {}, 1_003_136, 220.97),
        ("mobilefacenet", {"input_size": (112, 96)}, 999_552, 189.41),
        ("mobilefacenet", RELU6, 999_936, 233.81),
    ],
    ids=["112x112", "112x96", "relu6"],
)
def test_mobilefacenet_published(name, options, parameters, mega_macs):
    model = create(name, **options)
    assert count_parameters(model) == parameters
    assert count_macs(model, model.input_size) / 1e6 == pytest.approx(mega_macs, abs=0.005)


@pytest.mark.parametrize(
    ("name", "mega_parameters", "mega_macs"),
    [("mobilefacenet", 1.201, 221.2), ("mbf", 2.060, 437.5)],
)
def test_512_dimensions_published(name, mega_parameters, mega_macs):
    model = create(name, embedding_dim=512)
    assert count_parameters(model) / 1e6 == pytest.approx(mega_parameters, abs=0.0005)
    assert count_macs(model) / 1e6 == pytest.approx(mega_macs, abs=0.05)


def test_mobilefacenet_relu_is_the_published_network_without_slopes():
    # a slope a channel: stem, its depthwise, two for each bottleneck's hidden channels, the last 1x1
    slopes = 64 + 64 + 2 * (5 * 128 + 256 + 6 * 256 + 512 + 2 * 256) + 512
    model = create("mobilefacenet_relu", embedding_dim=128)
    assert count_parameters(model) == 1_003_136 - slopes
    assert count_macs(model) / 1e6 == pytest.approx(220.97, abs=0.005)
    kinds = {type(m) for m in model.modules()}
    assert nn.ReLU in kinds
    assert not any(issubclass(kind, nn.PReLU | nn.ReLU6) for kind in kinds)


def test_iresnet18():
    parameters = 27 * 64 + 3 * 64  # stem: convolution, BN and PReLU
    macs = 112**2 * 27 * 64
    previous, side = 64, 112
    for channels in (64, 128, 256, 512):
        convolutions = 9 * previous * channels + previous * channels + 3 * 9 * channels**2
        norms = 2 * previous + 2 * channels * 6  # BN: before the first block, then six
        parameters += convolutions + norms + 2 * channels  # two PReLU
        macs += side**2 * 9 * previous * channels
        side //= 2
        macs += side**2 * (previous * channels + 3 * 9 * channels**2)
        previous = channels
    parameters += 2 * 512 + (512 * 49 * 512 + 512) + 2 * 512
    macs += 512 * 49 * 512
    model = create("iresnet18")
    assert count_parameters(model) == parameters
    assert count_macs(model) == macs
    assert parameters / 1e6 == pytest.approx(24.03, abs=0.005)  # as published


@pytest.mark.parametrize(
    ("name", "mega_flops"), [("ghostfacenet_v1_s1", 216), ("ghostfacenet_v1_s2", 60)]
)
def test_ghostfacenet_published(name, mega_flops):
    model = create(name)
    # Keras, which the authors count with, has BN's running statistics among the parameters.
    statistics = sum(b.numel() for key, b in model.named_buffers() if "running_" in key)
    counted = (count_parameters(model) + statistics) / 1e6
    assert round(counted, 1) == 4.1
    # TensorFlow's profiler counts more than convolutions: 1 to 2 % here.
    assert 0.98 * mega_flops < count_macs(model) / 1e6 < mega_flops


@pytest.mark.parametrize(
    ("name", "mega_parameters", "mega_flops"),
    [("edgeface_xs", 1.77, 154.00), ("edgeface_s", 3.65, 306.12)],
)
def test_edgeface_published(name, mega_parameters, mega_flops):
    model = create(name)
    assert round(count_parameters(model) / 1e6, 2) == mega_parameters
    # Two for each multiply-add, products of the attention included, and one for each bias of a convolution.
    biases = 0

    def add(_layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal biases
        biases += output.numel()

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(add)
    macs = count_macs(model)
    assert round((2 * macs + biases) / 1e6, 2) == mega_flops


def test_products_of_attention_count():
    class Attention(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = images.flatten(2)  # (1, 3, 20)
            return (x @ x.transpose(1, 2)) @ x

    module = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), Attention())
    assert count_macs(module, (4, 5)) == 20 * 3 * 3 + 3 * 3 * 20 + 3 * 3 * 20


def test_products_of_other_forms_count():
    """A turned convolution, a product that adds a bias, and attention in one call."""

    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turned = nn.ConvTranspose2d(3, 4, 2, stride=2)
            self.linear = nn.Linear(7, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.linear(images.new_ones(6, 7))
            query, keys = images.new_ones(1, 2, 4, 8), images.new_ones(1, 2, 6, 8)
            F.scaled_dot_product_attention(query, keys, keys)
            return self.turned(images)

    # Each of 4 x 5 pixels of 3 channels reaches 2 x 2 of 4.
    turned, linear, attention = 4 * 5 * 3 * 4 * 2 * 2, 6 * 7 * 5, 2 * (2 * 4 * 6 * 8)
    assert count_macs(Products(), (4, 5)) == turned + linear + attention


def test_counting_leaves_the_module_as_it_was():
    model = create("mobilefacenet", input_size=(32, 32), embedding_dim=16).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = next(layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)).eval()
    count_macs(model, (32, 32))
    assert {layer for layer in model.modules() if not layer.training} == {frozen}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_counting_in_inference_mode():
    layers = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2 * 4 * 5, 7))
    with torch.inference_mode():
        assert count_macs(layers, (4, 5)) == 4 * 5 * 3 * 2 + 2 * 4 * 5 * 7


def test_grouped_and_strided_convolution_by_hand():
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3),  # 4x4x6 outputs, 9 products each
        nn.Flatten(),
        nn.Linear(96, 5),
    )
    assert count_macs(layers, (8, 8)) == 4 * 4 * 6 * 9 + 96 * 5
    assert count_parameters(layers) == 6 * 9 + 6 + 96 * 5 + 5
