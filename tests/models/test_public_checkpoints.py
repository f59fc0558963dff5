"""The real public checkpoints: every tensor finds its place, and real faces are told apart as published.

Reference figures over all pairs of 40 people x 10 images (1,800 genuine, 78,000 impostor), measured
with the code the checkpoints came from.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusedface.models import Backbone, build_from_checkpoint, create, load_checkpoint

FILES = {
    "mobilefacenet-prelu-112x96": "mobilefacenet_112x96_casia.ckpt",
    "mobilefacenet-relu6-112x112": "mobilefacenet_112x112_relu6.pt",
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
