"""Public MobileFaceNets: every tensor finds its place, embeddings are those of the public networks.

The real checkpoints on real faces where both are at hand, drawn weights on drawn images everywhere.
Reference figures over all pairs of 40 people x 10 images (1,800 genuine, 78,000 impostor), measured
with the code the checkpoints came from.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from public_nets import Net, mobilefacenet_prelu, mobilefacenet_relu6
from torch import nn

from fusedface.models import Backbone, build_from_checkpoint, create, load_checkpoint
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
    "mobilefacenet-relu6-112x112": (
        mobilefacenet_relu6,
        lambda images: (images.double() / 255 - IMAGENET[0]) / IMAGENET[1],
    ),
}
# TAR at FAR 1e-2 and 1e-3 in percent, area under the ROC, leave-one-out rank-1 in percent.
REFERENCE = {
    "mobilefacenet-prelu-112x96": (99.50, 97.72, 0.99981, 100.0),
    "mobilefacenet-relu6-112x112": (100.00, 99.72, 0.99999, 100.0),
}


def _faces(folder: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Images (N, H, W, 3) uint8 and the name of each one's person."""
    paths = sorted(path for path in folder.glob("*/*") if path.is_file())
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return torch.from_numpy(images), np.array([path.parent.name for path in paths])


def _embed(model: Backbone, images: torch.Tensor) -> np.ndarray:
    """Unit features of image and mirror image, joined as the model's preprocessing says."""
    rows = []
    with torch.no_grad():
        for batch in model.preprocessing.images_to_tensor(images).split(50):
            pair = [model(batch), model(batch.flip(3))]
            joined = pair[0] + pair[1] if model.preprocessing.flip == "sum" else torch.cat(pair, 1)
            rows.append(joined.double().numpy())
    features = np.concatenate(rows)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _figures(features: np.ndarray, people: np.ndarray) -> tuple[float, float, float, float]:
    scores = features @ features.T
    first, second = np.triu_indices(len(people), 1)
    same = people[first] == people[second]
    genuine = scores[first, second][same]
    impostor = np.sort(scores[first, second][~same])[::-1]
    assert (len(genuine), len(impostor)) == (1800, 78000)
    tar = [100 * float((genuine > impostor[int(far * 78000)]).mean()) for far in (1e-2, 1e-3)]
    below = np.searchsorted(impostor[::-1], genuine)  # impostors that each genuine pair beats
    np.fill_diagonal(scores, -np.inf)
    rank1 = 100 * float((people[scores.argmax(axis=1)] == people).mean())
    return tar[0], tar[1], float(below.mean() / 78000), rank1


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
    images = _faces(real_data / "orl_aligned")[0][::80]
    expected = _public_embeddings(layout, state, images)
    torch.testing.assert_close(_our_embeddings(path, images), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", FILES)
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
    torch.save({"net_state_dict": state} if "prelu" in layout else state, path)
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


@pytest.mark.parametrize("layout", FILES)
def test_reaches_the_reference_figures(real_data, layout):
    model = build_from_checkpoint(real_data / "checkpoints" / FILES[layout])
    figures = _figures(*_features(model, real_data))
    assert figures[0] == pytest.approx(REFERENCE[layout][0], abs=0.06)  # one genuine pair: 0.056
    assert figures[1] == pytest.approx(REFERENCE[layout][1], abs=0.06)
    assert figures[2] == pytest.approx(REFERENCE[layout][2], abs=6e-6)
    assert figures[3] == REFERENCE[layout][3]


def _features(model: Backbone, real_data: Path) -> tuple[np.ndarray, np.ndarray]:
    images, people = _faces(real_data / "orl_aligned")
    return _embed(model, images), people


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
