"""Every backbone as an ONNX file."""

import json

import numpy as np
import onnx
import pytest
import torch
from exported import EXACT, SIZE, by_insightface, by_pytorch, faces, quiet
from small_models import save_network, shortened

from fusedface.models import MODELS, create
from fusedface.recipes.export.export import export

# The first by test_export.py; the others differ from a neighbour in sizes, or in the activation, only.
EXPORTED_ELSEWHERE = (
    "mobilefacenet", "mobilefacenet_relu", "mbf_large", "ghostfacenet_v1_s2", "edgeface_s",
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in MODELS if name not in EXPORTED_ELSEWHERE])
def test_each_kind_of_block(tmp_path, monkeypatch, name):
    shortened(monkeypatch)
    computes_the_same(tmp_path, name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MODELS)
def test_every_backbone(tmp_path, name):
    computes_the_same(tmp_path, name)


def computes_the_same(folder, name):
    torch.manual_seed(0)
    model = create(name, embedding_dim=16, input_size=(SIZE, SIZE), width=0.25).eval()
    save_network(model, folder / "other.pt")
    export(folder / "other.pt", ["onnx"], folder, console=quiet())
    found = by_insightface(folder / "other.onnx", faces()[..., ::-1])
    np.testing.assert_allclose(found, by_pytorch(model, faces()), rtol=0, atol=EXACT)
    described = {p.key: p.value for p in onnx.load(folder / "other.onnx").metadata_props}
    assert json.loads(described["backbone"]) == model.config
