"""Evaluation of networks: reference figures of public checkpoints, mirroring, broken input."""

import numpy as np
import pytest
import torch
from face_files import write_people

from fusedface.data import SyntheticFaces, from_index_pairs, read_pairs, synthetic_pairs
from fusedface.models import build_from_checkpoint, create
from fusedface.recipes.engine.evaluate import embed, evaluate_pairs, evaluate_with_scores
from fusedface.recipes.report.roc import plot_roc

PUBLIC = {
    "mobilefacenet_112x96_casia.ckpt": (0.9920, 0.0031, 0.9950, 0.9772, 0.99981),
    "mobilefacenet_112x112_relu6.pt": (0.9970, 0.0035, 1.0, 0.9972, 0.99999),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_public_checkpoints_reach_their_reference_figures(real_data, name):
    accuracy, std, tar2, tar3, auc = PUBLIC[name]
    model = build_from_checkpoint(real_data / "checkpoints" / name)
    pairs = read_pairs(real_data / "orl_aligned_pairs.csv", real_data / "orl_aligned")
    result = evaluate_pairs(model, pairs)
    assert result.accuracy == pytest.approx(accuracy, abs=1e-3)
    assert result.accuracy_std == pytest.approx(std, abs=5e-4)
    assert result.tar_at_far["0.01"] == pytest.approx(tar2, abs=1e-3)
    assert result.tar_at_far["0.001"] == pytest.approx(tar3, abs=1e-3)
    assert result.auc == pytest.approx(auc, abs=1e-5)
    assert result.rank1 == 1.0
    assert (result.num_genuine, result.num_impostor) == (1800, 78000)


def small(flip="sum"):
    torch.manual_seed(0)
    model = create("mobilefacenet", embedding_dim=16, input_size=(32, 32), width=0.25)
    from dataclasses import replace

    model.preprocessing = replace(model.preprocessing, flip=flip)
    return model


def test_embeddings_join_both_mirror_images():
    source = SyntheticFaces(20, 2, image_size=(32, 32))
    pairs = from_index_pairs(source, *synthetic_pairs(source, 40))
    model = small()
    model.train()
    joined = embed(model, pairs)
    assert model.training  # the mode is put back, and no statistics were touched
    model.eval()
    images = model.preprocessing.images_to_tensor(
        source.render(torch.from_numpy(pairs.images.indices))
    )
    with torch.inference_mode():
        expected = model(images) + model(images.flip(3))
        torch.testing.assert_close(joined, expected, rtol=1e-4, atol=1e-5)
        both = torch.cat([model(images), model(images.flip(3))], dim=1)
    model.preprocessing = small("concat").preprocessing
    torch.testing.assert_close(embed(model, pairs), both, rtol=1e-4, atol=1e-5)


def test_an_unreadable_image_stops_the_evaluation(tmp_path):
    write_people(tmp_path)
    text = "ann/ann_0001.png ann/ann_0002.png 1 0\nann/ann_0001.png cyd/cyd_0001.png 0 1\n"
    (tmp_path / "pairs.txt").write_text(text)
    pairs = read_pairs(tmp_path / "pairs.txt")
    (tmp_path / "cyd" / "cyd_0001.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cyd_0001"):
        evaluate_pairs(small(), pairs)


def test_roc_plot(tmp_path):
    source = SyntheticFaces(20, 3, image_size=(32, 32))
    pairs = from_index_pairs(source, *synthetic_pairs(source, 100))
    result, scores = evaluate_with_scores(small(), pairs)
    assert len(scores.genuine) == result.num_genuine
    curve = np.array([0.0, 0.001, 0.1, 1.0]), np.array([0.0, 0.5, 0.9, 1.0])
    plot_roc({"one": curve}, tmp_path / "roc.png")
    assert (tmp_path / "roc.png").stat().st_size > 5000
    assert "<svg" in (tmp_path / "roc.svg").read_text()
    first = (tmp_path / "roc.svg").read_bytes()
    plot_roc({"one": curve}, tmp_path / "roc.png")
    assert (tmp_path / "roc.svg").read_bytes() == first
