"""insightface's `mbf`, `mbf_large` and `r18`: their tensors by name and shape, and what they compute.

Names, shapes and order of operations are restated here from recognition/arcface_torch, in functions of
the plain dictionary; nothing of this project's layouts or backbones is used for them.
"""

import pytest
import torch
from public_nets import Net, State
from torch import Tensor

from fusedface.models import build_from_checkpoint, create, load_checkpoint


def mbf(net: Net, x: Tensor, blocks=(1, 4, 6, 2), scale=2, D=512) -> Tensor:
    def conv_block(x, name, *args):
        x = net.bn(net.conv(x, f"{name}.layers.0", *args), f"{name}.layers.1")
        return net.prelu(x, f"{name}.layers.2")

    def linear_block(x, name, *args):
        return net.bn(net.conv(x, f"{name}.layers.0", *args), f"{name}.layers.1")

    def depthwise(x, name, out, hidden, stride):
        y = conv_block(x, f"{name}.layers.0", hidden, 1)
        y = conv_block(y, f"{name}.layers.1", hidden, 3, stride, 1, hidden)
        return linear_block(y, f"{name}.layers.2", out, 1)

    def residual(x, name, num, hidden):
        for i in range(num):
            x = x + depthwise(x, f"{name}.layers.{i}", x.shape[1], hidden, 1)
        return x

    c = 64 * scale
    x = conv_block(x, "layers.0", c, 3, 2, 1)
    if blocks[0] == 1:
        x = conv_block(x, "layers.1", c, 3, 1, 1, 64)
    else:
        x = residual(x, "layers.1", blocks[0], 128)
    x = residual(depthwise(x, "layers.2", c, 128, 2), "layers.3", blocks[1], 128)
    x = residual(depthwise(x, "layers.4", 2 * c, 256, 2), "layers.5", blocks[2], 256)
    x = residual(depthwise(x, "layers.6", 2 * c, 512, 2), "layers.7", blocks[3], 256)
    x = conv_block(x, "conv_sep", 512, 1)
    x = linear_block(x, "features.layers.0", 512, 7, 1, 0, 512).flatten(1)
    return net.bn(x @ net.get("features.layers.2.weight", D, 512).T, "features.layers.3")


def mbf_large(net: Net, x: Tensor, D=512) -> Tensor:
    return mbf(net, x, (2, 8, 12, 4), 4, D)


def r18(net: Net, x: Tensor, D=512) -> Tensor:
    x = net.prelu(net.bn(net.conv(x, "conv1", 64, 3, 1, 1), "bn1"), "prelu")
    for stage, C in enumerate((64, 128, 256, 512), start=1):
        for i in range(2):
            name, stride = f"layer{stage}.{i}", 2 - i
            y = net.conv(net.bn(x, f"{name}.bn1"), f"{name}.conv1", C, 3, 1, 1)
            y = net.prelu(net.bn(y, f"{name}.bn2"), f"{name}.prelu")
            y = net.bn(net.conv(y, f"{name}.conv2", C, 3, stride, 1), f"{name}.bn3")
            if i == 0:
                x = net.bn(net.conv(x, f"{name}.downsample.0", C, 1, 2), f"{name}.downsample.1")
            x = x + y
    x = net.bn(x, "bn2").flatten(1)
    x = x @ net.get("fc.weight", D, 25088).T + net.get("fc.bias", D)
    return net.bn(x, "features")


NETWORKS = {
    "insightface-mbf": ("mbf", mbf),
    "insightface-mbf-large": ("mbf_large", mbf_large),
    "insightface-r18": ("iresnet18", r18),
}


def _draw(network, **options) -> State:
    net = Net()
    network(net, torch.zeros(1, 3, 112, 112), **options)
    return net.state


@pytest.mark.parametrize(
    ("layout", "D"), [(name, 512) for name in NETWORKS] + [("insightface-mbf", 128)]
)
@torch.no_grad()
def test_computes_what_insightface_computes(tmp_path, layout, D):
    name, network = NETWORKS[layout]
    state = _draw(network, D=D)
    torch.save(state, tmp_path / "model.pt")
    model = build_from_checkpoint(tmp_path / "model.pt")
    assert (model.config["name"], model.embedding_dim) == (name, D)
    assert not model.training
    images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    expected = network(Net(state), images, D=D)
    error = (model(images) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5  # float32, sums in another order

    loaded = load_checkpoint(create(name, embedding_dim=D), tmp_path / "model.pt")
    assert loaded.layout == layout
    # RGB, (x / 255 - 0.5) / 0.5; verification adds the features of both mirror images.
    assert loaded.preprocessing.mean == loaded.preprocessing.std == (127.5,) * 3
    assert (loaded.preprocessing.flip, loaded.preprocessing.input_size) == ("sum", (112, 112))


@pytest.mark.parametrize(
    ("layout", "tensors"),
    [
        # 15 bottlenecks of 20, 3 convolutions with PReLU, the GDConv, the linear layer and its BN
        ("insightface-mbf", 15 * 20 + 3 * 7 + 6 + 1 + 5),
        ("insightface-mbf-large", (2 + 8 + 12 + 4 + 3) * 20 + 2 * 7 + 6 + 1 + 5),
        # 8 blocks of 3 BN, 2 convolutions and PReLU; 4 projections; stem, BN, linear layer, BN
        ("insightface-r18", 8 * (3 * 5 + 2 + 1) + 4 * 6 + 7 + 5 + 2 + 5),
    ],
)
def test_number_of_tensors(layout, tensors):
    name, network = NETWORKS[layout]
    state = _draw(network)
    assert len(state) == len(create(name).state_dict()) == tensors


def test_training_checkpoint_of_one_gpu(tmp_path):
    state = _draw(mbf)
    wrapped = {"epoch": 3, "global_step": 70, "state_dict_backbone": state}
    wrapped["state_dict_softmax_fc_module"] = {"weight": torch.zeros(10, 512)}
    torch.save(wrapped, tmp_path / "checkpoint_gpu_0.pt")
    model = build_from_checkpoint(tmp_path / "checkpoint_gpu_0.pt")
    assert torch.equal(model.state_dict()["final.conv.weight"], state["conv_sep.layers.0.weight"])


def test_deeper_network_is_refused(tmp_path):
    state = _draw(r18) | {"layer1.2.prelu.weight": torch.zeros(64)}  # r34 goes on where r18 ends
    torch.save(state, tmp_path / "r34.pt")
    with pytest.raises(ValueError, match=r"insightface-r18\) does not fit") as caught:
        build_from_checkpoint(tmp_path / "r34.pt")
    assert "1 unexpected: layer1.2.prelu.weight" in str(caught.value)


@pytest.mark.parametrize("shape", [(), (0, 512), (5000, 512)])
def test_size_that_cannot_be_is_refused(tmp_path, shape):
    state = _draw(mbf)
    state["features.layers.2.weight"] = torch.zeros(1).expand(shape) if shape else torch.tensor(1.0)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"1 of another shape: features.layers.2.weight"):
        build_from_checkpoint(tmp_path / "model.pt")
