"""Public MobileFaceNets: every tensor finds its place, embeddings are those of the public networks.

The real checkpoints on real faces where both are at hand, drawn weights on drawn images everywhere.
What they reach on all those faces is tested in tests/recipes/test_evaluate.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from public_nets import Net, mobilefacenet_gdc, mobilefacenet_prelu, mobilefacenet_relu6
from torch import nn

from fusedface.models import build_from_checkpoint, create, load_checkpoint
from fusedface.models.checkpoints import FORMAT, VERSION
from fusedface.models.layouts import RELU6_112X112

FILES = {
    "mobilefacenet-prelu-112x96": "mobilefacenet_112x96_casia.ckpt",
    "mobilefacenet-relu6-112x112": "mobilefacenet_112x112_relu6.pt",
}
# The network of each, the images it takes, and the input it makes of them, as its authors write both.
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)
PUBLIC = {
    "mobilefacenet-prelu-112x96": (
        mobilefacenet_prelu,
        lambda images: (images[:, :, 8:104].double() - 127.5) / 128,
    ),
    "mobilefacenet-prelu-112x112": (
        mobilefacenet_gdc,
        lambda images: (images.double() / 255 - 0.5) / 0.5,
    ),
    "mobilefacenet-relu6-112x112": (
        mobilefacenet_relu6,
        lambda images: (images.double() / 255 - IMAGENET[0]) / IMAGENET[1],
    ),
}


def _some_faces(folder: Path) -> torch.Tensor:
    """A few of the images, (N, H, W, 3) uint8."""
    paths = sorted(path for path in folder.glob("*/*") if path.is_file())[::80]
    return torch.from_numpy(np.stack([np.asarray(Image.open(p).convert("RGB")) for p in paths]))


def _public_embeddings(layout: str, state: dict, images: torch.Tensor, **options) -> torch.Tensor:
    """Embeddings (B, D) of length 1 of (B, 112, 112, 3) uint8 images by the restated network, float64."""
    network, prepare = PUBLIC[layout]
    doubled = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    with torch.no_grad():
        rows = network(Net(doubled), prepare(images).permute(0, 3, 1, 2), **options)
    return nn.functional.normalize(rows)


def _our_embeddings(path: Path, images: torch.Tensor) -> torch.Tensor:
    """The same by the network that the file is built into, on the input that it makes of the images."""
    model = build_from_checkpoint(path).double()
    with torch.no_grad():
        return nn.functional.normalize(model(model.preprocessing.images_to_tensor(images).double()))


@pytest.mark.parametrize("layout", FILES)
def test_embeds_real_faces_as_the_public_network_does(real_data, layout):
    path = real_data / "checkpoints" / FILES[layout]
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("net_state_dict", content)
    images = _some_faces(real_data / "orl_aligned")
    expected = _public_embeddings(layout, state, images)
    torch.testing.assert_close(_our_embeddings(path, images), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", PUBLIC)
def test_embeds_drawn_images_as_the_public_network_does(tmp_path, layout):
    network, prepare = PUBLIC[layout]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 112, 112, 3), dtype=torch.uint8, generator=generator)
    net = Net()
    network(net, prepare(images).float().permute(0, 3, 1, 2))  # draws the weights
    state = dict(net.state)
    if layout == "mobilefacenet-relu6-112x112":
        for name in ("dw_conv.bn1.bias", "dw_conv.bn2.bias"):  # activations on both sides of 6
            state[name] = state[name] + 6
        expected = _public_embeddings(layout, state, images)
        wrong = _public_embeddings(layout, state, images, stem=nn.functional.relu6)
        assert (expected - wrong).abs().max() > 1e-3
    path = tmp_path / "public.pt"
    torch.save({"net_state_dict": state} if layout.endswith("112x96") else state, path)
    expected = _public_embeddings(layout, state, images)
    torch.testing.assert_close(_our_embeddings(path, images), expected, rtol=0, atol=1e-6)


def test_a_checkpoint_of_ours_with_relu6_in_the_stem_stays_what_it_is(tmp_path):
    """One whose description has no activation of the stem: it was ReLU6 there as everywhere."""
    network, prepare = PUBLIC["mobilefacenet-relu6-112x112"]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 112, 112, 3), dtype=torch.uint8, generator=generator)
    net = Net()
    network(net, prepare(images).float().permute(0, 3, 1, 2))
    state = net.state | {"dw_conv.bn2.bias": net.state["dw_conv.bn2.bias"] + 6}
    names = RELU6_112X112.names()
    described = {
        "format": FORMAT,
        "version": VERSION,
        "backbone": {
            "name": "mobilefacenet", "embedding_dim": 128, "input_size": [112, 112], "width": 1.0,
            "activation": "relu6", "stem_pointwise": True, "embedding_bias": True,
        },
        "preprocessing": RELU6_112X112.preprocessing.as_dict(),
        "model": {names[key]: value for key, value in state.items()},
    }  # fmt: skip
    torch.save(described, tmp_path / "before.pt")
    expected = _public_embeddings(
        "mobilefacenet-relu6-112x112", state, images, stem=nn.functional.relu6
    )
    ours = _our_embeddings(tmp_path / "before.pt", images)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert build_from_checkpoint(tmp_path / "before.pt").config["stem_activation"] == "relu6"


def test_a_training_file_with_its_head(tmp_path):
    """bubbliiiing's training saves the class centres among the backbone's tensors."""
    net = Net()
    mobilefacenet_gdc(net, torch.zeros(1, 3, 112, 112), D=64)
    assert len(net.state) == len(create("mobilefacenet").state_dict()) == 333  # as the public file
    torch.save(net.state | {"head.weight": torch.ones(10, 64)}, tmp_path / "ep010.pth")
    model = build_from_checkpoint(tmp_path / "ep010.pth")
    assert load_checkpoint(model, tmp_path / "ep010.pth").layout == "mobilefacenet-prelu-112x112"
    assert model.embedding_dim == 64
    assert torch.equal(model.state_dict()["gdconv.conv.weight"], net.state["arcface.GDC_dw.weight"])
    torch.save(net.state | {"tail.weight": torch.ones(10, 64)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"1 unexpected: tail\.weight"):
        build_from_checkpoint(tmp_path / "other.pth")


@pytest.mark.parametrize("layout", FILES)
def test_loads_into_the_backbone_made_for_it(real_data, layout):
    path = real_data / "checkpoints" / FILES[layout]
    built = build_from_checkpoint(path)
    model = create(**built.config)
    loaded = load_checkpoint(model, path)
    assert loaded.layout == layout
    assert loaded.step is None
    assert model.preprocessing == loaded.preprocessing
    for key, value in model.state_dict().items():
        assert torch.equal(value, built.state_dict()[key])


def test_the_other_layout_is_refused(real_data):
    model = create("mobilefacenet")  # 112x112, PReLU
    with pytest.raises(ValueError, match=r"linear7.conv.weight \(512, 1, 7, 6\) instead of"):
        load_checkpoint(model, real_data / "checkpoints" / FILES["mobilefacenet-prelu-112x96"])
    with pytest.raises(ValueError, match=r"33 missing.*\n.*7 unexpected"):
        load_checkpoint(model, real_data / "checkpoints" / FILES["mobilefacenet-relu6-112x112"])
