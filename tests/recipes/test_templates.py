"""The IJB protocol, against a restatement face by face, and through the command line."""

import json

import numpy as np
import pytest
import torch
from face_files import write_image
from typer.testing import CliRunner

from fusedface import cli
from fusedface.data.align import TEMPLATE
from fusedface.data.ijb import read_templates
from fusedface.models import create
from fusedface.models.checkpoints import FORMAT, VERSION
from fusedface.recipes.evaluation.embedding import embed
from fusedface.recipes.evaluation.templates import aggregate, compare, evaluate_templates

PEOPLE = 4


def write_set(folder):
    """Two templates of each person, of two photos and a video of two frames; all pairs."""
    rng = np.random.default_rng(0)
    (folder / "meta").mkdir(parents=True)
    faces, points, pairs, number = [], [], [], 0
    for template in range(2 * PEOPLE):
        for medium in (10, 11, 12, 12):
            name = f"{number}.png"
            write_image(folder / "loose_crop" / name, rng.integers(20, 255, 3))
            faces.append(f"{name} {template} {medium}")
            moved = TEMPLATE + rng.normal(size=(5, 2))
            points.append(
                f"{name} {' '.join(f'{v:.3f}' for v in moved.ravel())} {rng.uniform(0.5, 1):.3f}"
            )
            number += 1
    for one in range(2 * PEOPLE):
        pairs += [f"{one} {other} {int(one // 2 == other // 2)}" for other in range(one)]
    for name, lines in (
        ("face_tid_mid", faces),
        ("name_5pts_score", points),
        ("template_pair_label", pairs),
    ):
        (folder / "meta" / f"ijbx_{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def small():
    torch.manual_seed(0)
    return create("mobilefacenet", embedding_dim=16, width=0.25, input_size=(112, 112)).eval()


def test_templates_face_by_face(tmp_path):
    pytest.importorskip("cv2")
    faces, model = read_templates(write_set(tmp_path / "IJBX")), small()
    features = embed(model, faces).numpy().astype(np.float64) * faces.score[:, None]
    expected = {}
    for template in range(2 * PEOPLE):
        total = np.zeros(features.shape[1])
        for medium in (10, 11, 12):
            chosen = [f for f, t, m in zip(features, faces.template, faces.medium, strict=True)
                      if (t, m) == (template, medium)]  # fmt: skip
            total += sum(chosen) / len(chosen)
        expected[template] = total / np.sqrt(total @ total)
    result, scores = evaluate_templates(model, faces)
    pairs = list(zip(faces.first, faces.second, faces.same, strict=True))
    for wanted, got in ((True, scores.genuine), (False, scores.impostor)):
        cosines = [expected[a] @ expected[b] for a, b, same in pairs if same == wanted]
        np.testing.assert_allclose(got, cosines, atol=1e-9)
    assert (result.num_templates, result.num_genuine, result.num_impostor) == (8, 4, 24)
    # The rates of insightface's eval_ijbc.py; 24 impostors support the last one.
    assert list(result.tar_at_far) == ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1"]
    assert [far for far, rate in result.tar_at_far.items() if rate is not None] == ["0.1"]
    third = np.sort(scores.impostor)[-3]
    assert result.tar_at_far["0.1"] == np.mean(scores.genuine > third)


def test_a_video_counts_as_one_photo():
    embeddings = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, 2.0]])
    names, templates = aggregate(embeddings, np.array([7, 7, 7, 7]), np.array([0, 1, 1, 1]))
    assert names.tolist() == [7]
    np.testing.assert_allclose(templates, [np.array([1, 2]) / np.sqrt(5)])


def test_chunks_change_nothing(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(20, 5))
    first, second = np.random.default_rng(1).integers(0, 20, (2, 100))
    whole = compare(rows, first, second)
    monkeypatch.setattr("fusedface.recipes.evaluation.templates.CHUNK", 7)
    assert np.array_equal(compare(rows, first, second), whole)


def test_evaluate_on_the_command_line(tmp_path):
    pytest.importorskip("cv2")
    model = small()
    archive = {
        "format": FORMAT, "version": VERSION, "backbone": model.config, "model": model.state_dict(),
        "preprocessing": model.preprocessing.as_dict(), "step": 3,
    }  # fmt: skip
    torch.save(archive, tmp_path / "model.pt")
    folder = write_set(tmp_path / "IJBX")
    arguments = ["evaluate", tmp_path / "model.pt", "--ijb", folder, "--out", tmp_path / "out"]
    ran = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "4 + 24" in ran.output
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["templates"]["IJBX"]["num_templates"] == 8
    with pytest.raises(ValueError, match="give --pairs, --ijb, or with --root"):
        CliRunner().invoke(
            cli.app, ["evaluate", str(tmp_path / "model.pt")], catch_exceptions=False
        )


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("face_tid_mid", "", "is empty"),
        ("face_tid_mid", "0.png 1\n", r"face_tid_mid\.txt:1: expected 3 fields, got 2"),
        ("face_tid_mid", "0.png 0 1\n", "lists 1 faces and"),
        ("face_tid_mid", "../../x.png 0 1\n", "leads out of"),
        ("name_5pts_score", "0.png" + " nan" * 11 + "\n", "not finite"),
        ("template_pair_label", "0 99 1\n", "names template 99"),
        ("template_pair_label", "0 1 2\n", "must be 0 or 1"),
        ("template_pair_label", "0 x 1\n", r"ijbx_template_pair_label\.txt: .* could not convert"),
        (
            "template_pair_label",
            "0 1 1\n0 1\n",
            r"ijbx_template_pair_label\.txt: .* columns changed",
        ),
        (
            "template_pair_label",
            "0 1\n",
            r"ijbx_template_pair_label\.txt: expected 3 fields a line, got 2",
        ),
        ("template_pair_label", "", r"ijbx_template_pair_label\.txt: .* no data"),
    ],
)
def test_files_that_are_wrong_are_named(file, text, words, tmp_path):
    folder = write_set(tmp_path / "IJBX")
    (folder / "meta" / f"ijbx_{file}.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_templates(folder)


def test_faces_in_another_order_are_refused(tmp_path):
    """Each face would have had the landmarks of another."""
    folder = write_set(tmp_path / "IJBX")
    path = folder / "meta" / "ijbx_face_tid_mid.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[4], lines[3], *lines[5:]]))
    with pytest.raises(ValueError, match=r"IJBX: face 4 is '4\.png' in .* and '3\.png' in .*5pts"):
        read_templates(folder)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"expected one file meta/\*_face_tid_mid\.txt, got 0"):
        read_templates(tmp_path)
