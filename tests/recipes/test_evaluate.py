"""Evaluation of networks: reference figures of public checkpoints, mirroring, broken input."""

import pickle

import numpy as np
import pytest
import torch
from face_files import write_people
from PIL import Image
from rich.console import Console
from tiny_run import tiny_recipe, write_faces

from fusedface.data import SyntheticFaces, from_index_pairs, read_pairs, synthetic_pairs
from fusedface.models import build_from_checkpoint, create
from fusedface.recipes.evaluation.embedding import NonFiniteEmbeddingsError, embed
from fusedface.recipes.evaluation.evaluate import (
    evaluate_pairs,
    evaluate_with_scores,
    people_to_score,
)
from fusedface.recipes.report.roc import plot_roc
from fusedface.recipes.run import run_recipe
from fusedface.recipes.run_directory.verification_table import figure_rows

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
    result = evaluate_pairs(model, pairs, all_pairs=True)
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


def test_a_list_and_its_bin_have_the_same_figures(tmp_path):
    write_people(tmp_path)
    lines = []
    for fold, (one, other) in enumerate((("ann", "bob"), ("bob", "cyd"), ("cyd", "ann"))):
        lines.append(f"{one}/{one}_0001.png {one}/{one}_0002.png 1 {fold}")
        lines.append(f"{one}/{one}_0001.png {other}/{other}_0001.png 0 {fold}")
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    listed, model = read_pairs(tmp_path / "pairs.txt"), small()
    images = [
        listed.images.encoded(i)
        for pair in zip(listed.first, listed.second, strict=True)
        for i in pair
    ]
    (tmp_path / "pairs.bin").write_bytes(pickle.dumps((images, listed.same.tolist())))
    packed = read_pairs(tmp_path / "pairs.bin")
    one, other = evaluate_pairs(model, listed), evaluate_pairs(model, packed)
    assert one.scored == other.scored == "listed"
    figures = ("tar_at_far", "auc", "rank1", "num_genuine", "num_impostor")
    assert [getattr(one, f) for f in figures] == [getattr(other, f) for f in figures]
    assert one.num_genuine + one.num_impostor == len(listed)

    everything = evaluate_pairs(model, listed, all_pairs=True)
    assert (everything.scored, everything.rank1 is None) == ("all", False)
    count = len(listed.images) * (len(listed.images) - 1) // 2
    assert everything.num_genuine + everything.num_impostor == count > len(listed)
    with pytest.raises(ValueError, match=r"people of .*pairs\.bin, image 0 .* are unknown"):
        evaluate_pairs(model, packed, all_pairs=True)


def test_too_many_pairs_are_refused_or_said_to_be_the_listed_ones(monkeypatch, tmp_path):
    source = SyntheticFaces(20, 2, image_size=(32, 32))
    pairs = from_index_pairs(source, *synthetic_pairs(source, 40))
    assert evaluate_pairs(small(), pairs).scored == "all"
    count = len(pairs.images) * (len(pairs.images) - 1) // 2
    limit = "fusedface.recipes.evaluation.evaluate.MAX_ALL_PAIRS"
    monkeypatch.setattr(limit, count)
    for asked in (None, True):
        assert np.array_equal(people_to_score(pairs, asked), pairs.images.identities)
    monkeypatch.setattr(limit, count - 1)
    assert people_to_score(pairs) is None
    with pytest.raises(ValueError, match=f"of {len(pairs.images)} images are {count}, at most"):
        people_to_score(pairs, all_pairs=True)
    monkeypatch.setattr(limit, 100)
    assert evaluate_pairs(small(), pairs).scored == "listed"
    with pytest.raises(ValueError, match="at most 100 are scored"):
        evaluate_pairs(small(), pairs, all_pairs=True)


def broken_below(model, grey_level):
    """Make the network embed images as NaN whose mean is below a grey level."""

    def spoil(_module, inputs, output):
        dark = model.preprocessing.mean[0] + inputs[0].mean(dim=(1, 2, 3)) * 127.5 < grey_level
        output[dark, 3] = torch.nan

    model.register_forward_hook(spoil)
    return model


def test_embeddings_that_are_not_finite_are_counted_and_the_first_is_named(tmp_path):
    for name, level in (("ann", 200), ("bob", 20), ("cyd", 30)):
        for i in (1, 2):
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (level, level, level)).save(folder / f"{i}.png")
    lines = "ann/1.png ann/2.png 1 0\nbob/1.png cyd/1.png 0 1\ncyd/1.png cyd/2.png 1 2\n"
    (tmp_path / "pairs.txt").write_text(lines)
    pairs = read_pairs(tmp_path / "pairs.txt")
    words = r"embeddings of 3 of 5 images are not finite, first that of .*bob/1\.png"
    with pytest.raises(NonFiniteEmbeddingsError, match=words):
        evaluate_pairs(broken_below(small(), 100), pairs)
    evaluate_pairs(broken_below(small(), 10), pairs)  # none is so dark


def test_a_run_whose_embeddings_stop_being_finite_ends_as_non_finite(tmp_path, monkeypatch):
    calls = []

    def evaluate(model, pairs):
        calls.append(pairs)
        if len(calls) > 1:
            next(model.parameters()).data.fill_(torch.nan)
        return evaluate_pairs(model, pairs)

    monkeypatch.setattr("fusedface.recipes.training.verifying.evaluate_pairs", evaluate)
    recipe = tiny_recipe(write_faces(tmp_path))
    summary = run_recipe(recipe, tmp_path / "run", device="cpu", console=Console(quiet=True))
    assert summary.verdict == "non_finite"
    assert "embeddings of 36 of 36 images are not finite" in summary.message
    assert len(calls) == 2


def test_the_table_says_how_many_folds_and_which_pairs(tmp_path):
    write_people(tmp_path)
    (tmp_path / "pairs.txt").write_text(
        "ann/ann_0001.png ann/ann_0002.png 1 0\nann/ann_0001.png cyd/cyd_0001.png 0 0\n"
        "bob/bob_0001.png bob/bob_0002.png 1 1\nbob/bob_0001.png cyd/cyd_0001.png 0 1\n"
    )
    pairs = read_pairs(tmp_path / "pairs.txt")
    listed = figure_rows(evaluate_pairs(small(), pairs).as_dict())
    assert "accuracy, 2 folds" in listed
    assert listed["pairs of TAR and ROC"] == "listed: 2 + 2"
    everything = figure_rows(evaluate_pairs(small(), pairs, all_pairs=True).as_dict())
    assert everything["pairs of TAR and ROC"] == "all: 2 + 8"
    before = {"accuracy": 0.5, "accuracy_std": 0.0}  # a summary.json without either
    assert figure_rows(before) == {"accuracy": "50.00 ± 0.00"}


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
