"""What must hold for every backbone: shapes, batches, gradients, number formats, sizes refused."""

from typing import Any

import pytest
import torch
from small_models import shortened
from torch import nn

from fusedface.models import MODELS, Backbone, create
from fusedface.models.backbone import scale_channels

RELU6 = {
    "activation": "relu6",
    "stem_activation": "relu",
    "stem_pointwise": True,
    "embedding_bias": True,
}
VARIANTS = [(name, {}) for name in MODELS] + [("mobilefacenet", RELU6)]
SIZE = (32, 32)
SMALL: dict[str, Any] = {"input_size": SIZE, "embedding_dim": 16, "width": 0.25}


def _images(num: int, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, 3, *size, generator=generator, dtype=torch.float64).to(dtype)


def _create(name: str, seed: int = 0, **options) -> Backbone:
    torch.manual_seed(seed)
    return create(name, **options)


@pytest.mark.parametrize(
    ("input_size", "embedding_dim"), [((112, 112), 512), ((112, 96), 128), ((64, 64), 512)], ids=str
)
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_shapes_and_attributes(name, options, input_size, embedding_dim):
    model = _create(name, input_size=input_size, embedding_dim=embedding_dim, **options).eval()
    with torch.no_grad():
        embeddings = model(_images(1, input_size))
    assert embeddings.shape == (1, embedding_dim)
    assert embeddings.dtype == torch.float32
    assert torch.isfinite(embeddings).all()
    assert model.embedding_dim == embedding_dim
    assert model.input_size == input_size == model.preprocessing.input_size
    assert model.preprocessing.crop == ("center" if input_size == (112, 96) else "none")


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_config_builds_the_same_architecture(name, options):
    model = create(name, embedding_dim=24, input_size=(48, 32), width=0.5, **options)
    again = create(**model.config)
    assert again.config == model.config
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_evaluation_does_not_depend_on_the_batch(name, options):
    model = _create(name, **SMALL, **options).double()
    images = _images(6, SIZE, torch.float64)
    with torch.no_grad():
        model.train()
        model(images)  # running statistics that are not the initial (0, 1)
        model.eval()
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-12)
    assert together.std(dim=0).min() > 0  # the images are told apart at all


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_gradient_reaches_every_parameter(name, options):
    # In evaluation mode: in training the gradient of a bias before a BN is zero, as it must be.
    model = _create(name, **SMALL, **options).double().eval()
    out = model(_images(4, SIZE, torch.float64))
    (out * torch.randn(out.shape, dtype=out.dtype)).sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            assert parameter.grad.abs().max() > 0, key
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == ({"embedding.bn.weight"} if name == "iresnet18" else set())


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_embedding_holds_all_layers_after_the_last_spatial_one(name, options):
    model = _create(name, **SMALL, **options).eval()
    images = _images(2, SIZE)
    with torch.no_grad():
        expected = model.embedding(model.features(images)).flatten(1)
        assert torch.equal(model(images), expected)
    assert {key.split(".")[1] for key in model.state_dict() if key.startswith("embedding.")} == {
        "conv" if name.startswith(("mobilefacenet", "ghostfacenet")) else "linear",
        "norm" if name.startswith("edgeface") else "bn",
    }


@pytest.mark.parametrize("name", MODELS)
def test_channels_last_gives_the_same_embeddings_and_gradients(name):
    images = _images(4, SIZE, torch.float64)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = _create(name, **SMALL).double()
        model = model.to(memory_format=memory_format)  # type: ignore[call-overload]
        out = model(images.contiguous(memory_format=memory_format))
        out.square().sum().backward()
        results.append((out.detach(), model.get_parameter("stem.conv.weight").grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_autocast_bfloat16_trains_and_returns_float32(name):
    model = _create(name, **SMALL).to(memory_format=torch.channels_last)
    images = _images(8, SIZE).contiguous(memory_format=torch.channels_last)
    # 8 bits of mantissa through up to 50 layers: direction kept, not digits. In evaluation mode: BN over
    # the few values of a small batch divides by differences that are mostly rounding.
    model.eval()
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.cosine_similarity(model(images), exact).min() > 0.99
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(images)
    assert out.dtype == torch.float32
    out.square().sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.dtype == torch.float32
            assert torch.isfinite(parameter.grad).all(), key


# The others differ from a neighbour in sizes, or in the activation, only.
COMPILED = MODELS.keys() - {"mobilefacenet_relu", "mbf_large", "ghostfacenet_v1_s2", "edgeface_s"}


@pytest.mark.parametrize("name", sorted(COMPILED))
def test_compiles_in_one_graph(name, monkeypatch):
    shortened(monkeypatch)
    model = _create(name, **SMALL).eval()
    images = _images(2, SIZE)
    torch.compiler.reset()  # the backbones share their forward, and only so many graphs of it are kept
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_same_seed_same_weights_same_embeddings(name):
    images = _images(2, SIZE)
    first, second = (_create(name, seed=3, **SMALL) for _ in range(2))
    assert torch.equal(first(images), second(images))
    other = _create(name, seed=4, **SMALL)
    assert not torch.equal(first.state_dict()["stem.conv.weight"], other.stem.conv.weight)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights(name):
    model = _create(name)
    for key, layer in model.named_modules():
        if isinstance(layer, nn.PReLU):
            assert (layer.weight == 0.25).all(), key
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d | nn.LayerNorm):
            assert (layer.weight == 1).all() and (layer.bias == 0).all(), key  # noqa: PT018
        elif isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
            std = (2 / fan_out) ** 0.5
            if name == "iresnet18":
                std = 0.1
            elif name.startswith("edgeface"):
                std = 0.02 * 0.8796  # of a normal distribution cut off at two standard deviations
            # The standard deviation of n draws is off by about 1 / sqrt(2 n).
            tolerance = 5 / (2 * layer.weight.numel()) ** 0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=tolerance), key


@pytest.mark.parametrize("shape", [(2, 3, 112, 96), (3, 112, 112), (2, 1, 112, 112)], ids=str)
def test_wrong_image_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"images must be \(B, 3, 112, 112\), got"):
        create("mobilefacenet").eval()(torch.zeros(shape))


def test_width_scales_channels_to_multiples_of_eight():
    # 64 x 0.35 = 22.4, 64 x 0.3125 = 20 (halfway rounds up), 512 x 1.3 = 665.6, 64 x 0.01 -> the floor
    cases = {(64, 1.0): 64, (64, 0.35): 24, (64, 0.3125): 24, (512, 1.3): 664, (64, 0.01): 8}
    assert {case: scale_channels(*case) for case in cases} == cases


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("width", "stem"), [(0.1, 8), (0.5, 32), (1.25, 80), (2.0, 128)])
def test_every_width_runs(name, width, stem):
    model = create(name, width=width, input_size=SIZE, embedding_dim=16).eval()
    with torch.no_grad():
        assert model(_images(1, SIZE)).shape == (1, 16)
    stem *= {"mbf": 2, "mbf_large": 4}.get(name, 1)
    if name.startswith("ghostfacenet"):  # GhostNet begins with 16 channels, in steps of 4
        stem = {0.1: 4, 0.5: 8, 1.25: 20, 2.0: 32}[width]
    elif name == "edgeface_xs":  # 32 channels in steps of 4, at least 8
        stem = {0.1: 8, 0.5: 16, 1.25: 40, 2.0: 64}[width]
    elif name == "edgeface_s":  # 48 channels in steps of 8
        stem = {0.1: 8, 0.5: 24, 1.25: 64, 2.0: 96}[width]
    assert model.get_parameter("stem.conv.weight").shape[0] == stem
