"""`embed`, `verify`, `identify` and what `evaluate` measures, from files to what is printed."""

import csv
import json

import numpy as np
import pytest
from cli_calls import invoke, mistake, one_line
from PIL import Image
from scipy.special import expit
from small_models import embeddings_of, save_network, small_network, write_generated


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A network, generated people, and all that `evaluate` writes of them."""
    folder = tmp_path_factory.mktemp("place")
    save_network(small_network("concat"), folder / "model.pt")
    faces = write_generated(folder / "faces")
    invoke("evaluate", folder / "model.pt", "--root", faces, "--out", folder / "results")
    return folder


def cosine_of(place, one, other):
    first, second = embeddings_of(small_network("concat"), [one, other])
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_pairs_are_drawn_from_a_folder(place):
    """Rates rest on all pairs of all images: 8 people with 4 each."""
    document = json.loads((place / "results" / "results.json").read_text())
    found = document["verification"]["faces"]
    assert (found["num_genuine"], found["num_impostor"], found["scored"]) == (48, 448, "all")
    assert (found["num_pairs"], found["num_folds"]) == (96, 10)
    assert found["thresholds"]["num_people"] == 8
    assert found["identification"]["num_gallery"] == 8
    assert found["identification"]["num_probes"] == 24
    names = {path.name for path in (place / "results").iterdir()}
    assert names == {
        "results.json", "thresholds.json", "scores-faces.csv", "mistakes-faces.png",
        *(f"{plot}.{kind}" for plot in ("roc", "det", "calibration", "cmc") for kind in ("png", "svg")),
    }  # fmt: skip


def test_scores_as_csv(place):
    thresholds = json.loads((place / "results" / "thresholds.json").read_text())
    curve = thresholds["sets"]["faces"]["calibration"]
    with (place / "results" / "scores-faces.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 96
    assert sum(row["same"] == "1" for row in rows) == 48
    for row in rows[::19]:
        cosine = cosine_of(place, row["path1"], row["path2"])
        assert float(row["cosine"]) == pytest.approx(cosine, abs=1e-5)
        expected = expit(curve["slope"] * cosine + curve["intercept"])
        assert float(row["probability"]) == pytest.approx(expected, abs=1e-3)
        people = [path.split("/")[-2] for path in (row["path1"], row["path2"])]
        assert (people[0] == people[1]) == (row["same"] == "1")


def test_evaluate_says_where_impostor_pairs_are_too_few(place, tmp_path):
    shown = invoke("evaluate", place / "model.pt", "--root", place / "faces")
    assert (
        "48 genuine and 448 impostor pairs (all pairs of its images) of 32 images of 8 people"
        in shown
    )
    assert "448 impostor pairs are too few for a threshold at FAR 0.01" in shown
    assert "which takes 3,000 pairs" in shown
    assert "1:N, among the first 5" in shown
    assert "equal error rate" in shown


def test_a_threshold_of_other_data(place, tmp_path):
    """Figures at a fixed threshold, counted from the scores of the other set."""
    other = write_generated(tmp_path / "other", people=6, images=4)
    out = tmp_path / "out"
    shown = invoke(
        "evaluate", place / "model.pt", "--root", other, "--out", out, "--thresholds",
        place / "results" / "thresholds.json",
    )  # fmt: skip
    thresholds = json.loads((place / "results" / "thresholds.json").read_text())["sets"]["faces"]
    with (out / "scores-other.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = [(float(r["cosine"]) > thresholds["best"]) == (r["same"] == "1") for r in rows]
    accuracy = f"{100 * np.mean(right):.2f}"
    table = " ".join(shown.split()).split("Thresholds of other data")[1]
    assert f"{thresholds['best']:.4f} {accuracy}" in table


def test_two_sets_lend_each_other_their_thresholds(place, tmp_path):
    lists = []
    for name, people in (("first", "0123"), ("second", "4567")):
        lines = []
        for fold, a in enumerate(people):
            b = people[(fold + 1) % 4]
            lines.append(f"person0{a}/0.png person0{a}/1.png 1 {fold}")
            lines.append(f"person0{a}/0.png person0{b}/2.png 0 {fold}")
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
        lists += ["--pairs", tmp_path / f"{name}.txt"]
    shown = invoke("evaluate", place / "model.pt", "--root", place / "faces", *lists)
    assert "first, fewest errors" in shown
    assert "second, fewest errors" in shown


def test_lists_of_one_name_are_refused(place, tmp_path, capsys, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.txt").write_text(
            "person00/0.png person00/1.png 1 0\nperson00/0.png person01/1.png 0 1\n"
        )
    error = mistake(
        capsys, monkeypatch, "evaluate", place / "model.pt", "--root", place / "faces",
        "--pairs", tmp_path / "a/p.txt", "--pairs", tmp_path / "b/p.txt",
    )  # fmt: skip
    assert "'p' is given twice" in error


def test_embed(place, tmp_path):
    faces = sorted((place / "faces").glob("*/*.png"))
    shown = invoke(
        "embed", place / "faces/person00", faces[5], "--model", place / "model.pt", "-o", tmp_path / "e.npz"
    )  # fmt: skip
    assert "embeddings of 5 images, 32 numbers each" in shown
    with np.load(tmp_path / "e.npz", allow_pickle=False) as file:
        assert file["paths"].tolist() == [str(path) for path in [*faces[:4], faces[5]]]
        expected = embeddings_of(small_network("concat"), file["paths"])
        np.testing.assert_allclose(file["embeddings"], expected, atol=1e-5)
        assert file["embeddings"].dtype == np.float32
        assert str(file["model"]) == "model.pt"


@pytest.mark.parametrize(
    "pair", [("person00/0.png", "person00/1.png"), ("person00/0.png", "person05/1.png")]
)
def test_verify(place, pair):
    one, other = (place / "faces" / name for name in pair)
    thresholds = json.loads((place / "results" / "thresholds.json").read_text())["sets"]["faces"]
    cosine = cosine_of(place, one, other)
    shown = invoke(
        "verify", one, other, "--model", place / "model.pt", "--far", "0.1",
        "--thresholds", place / "results" / "thresholds.json",
    )  # fmt: skip
    assert float(shown.split()[1]) == pytest.approx(cosine, abs=1e-4)
    curve = thresholds["calibration"]
    probability = float(shown.split("probability ")[1].split(",")[0])
    assert probability == pytest.approx(
        expit(curve["slope"] * cosine + curve["intercept"]), abs=2e-3
    )
    (point,) = [p for p in thresholds["points"] if p["far"] == 0.1]
    assert (f"threshold {point['threshold']:.4f} at FAR 0.1") in shown
    assert ("one person by" if cosine > point["threshold"] else "two people by") in shown
    assert "448 impostor pairs" in shown


def test_verify_without_thresholds_says_how_to_get_them(place, capsys, monkeypatch):
    faces = place / "faces"
    shown = invoke(
        "verify", faces / "person00/0.png", faces / "person01/0.png", "--model", place / "model.pt"
    )
    assert "cosine" in shown
    assert "probability 0" not in shown
    assert "evaluate" in shown
    assert "--thresholds RESULTS/thresholds.json" in shown


def test_verify_refuses_a_rate_that_was_not_measured(place, capsys, monkeypatch):
    faces = place / "faces"
    error = mistake(
        capsys, monkeypatch, "verify", faces / "person00/0.png", faces / "person01/0.png",
        "--model", place / "model.pt", "--thresholds", place / "results/thresholds.json", "--far", "1e-5",
    )  # fmt: skip
    assert "with 448 impostor pairs it was measured at 0.1, 0.01" in error


def test_identify(place, tmp_path):
    """The gallery without the probe's photo, one person as a loose image; a mean over the cosines."""
    gallery = tmp_path / "gallery"
    paths = {}
    for path in sorted((place / "faces").glob("*/*.png")):
        person = path.parent.name
        if path.name == "0.png" and person == "person00":
            continue
        target = gallery / person / path.name
        if person == "person07":
            if path.name != "0.png":
                continue
            target = gallery / "person07.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        paths.setdefault(person, []).append(path)
    probe = place / "faces/person00/0.png"
    expected = {
        person: np.mean([cosine_of(place, probe, path) for path in files])
        for person, files in paths.items()
    }
    shown = invoke(
        "identify", probe, gallery, "--model", place / "model.pt", "--far", "0.1", "--top", 8,
        "--thresholds", place / "results" / "thresholds.json",
    )  # fmt: skip
    rows = [line.split() for line in shown.splitlines() if line.startswith("person0")]
    rows = [row for row in rows if len(row) == 5]
    assert {row[0] for row in rows} == set(expected)
    cosines = [float(row[2]) for row in rows]
    assert cosines == sorted(cosines, reverse=True)
    sets = json.loads((place / "results" / "thresholds.json").read_text())["sets"]
    threshold = sets["faces"]["points"][0]["threshold"]
    for row in rows:
        assert float(row[2]) == pytest.approx(expected[row[0]], abs=2e-4)
        assert int(row[1]) == len(paths[row[0]])
        assert (row[4] == "accepted") == (expected[row[0]] > threshold)
    assert f"about {100 * (1 - 0.9**8):.1f} %" in shown


@pytest.mark.parametrize("size", [(250, 250), (31, 32), (32, 64), (64, 32)])
def test_what_is_no_aligned_crop_is_refused(place, tmp_path, capsys, monkeypatch, size):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (size[1], size[0])).save(photo)
    good = place / "faces/person00/0.png"
    for arguments in (
        ["verify", good, photo],
        ["embed", good, photo],
        ["identify", photo, place / "faces"],
    ):
        error = one_line(mistake(capsys, monkeypatch, *arguments, "--model", place / "model.pt"))
        assert f"photo.png is {size[0]}x{size[1]}, no aligned face crop of 32x32" in error
        assert "data align PHOTOS landmarks.csv CROPS" in error


def test_crops_of_a_multiple_are_scaled(place, tmp_path):
    small = Image.open(place / "faces/person00/0.png")
    small.resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    shown = invoke(
        "verify",
        place / "faces/person00/0.png",
        tmp_path / "large.png",
        "--model",
        place / "model.pt",
    )
    assert float(shown.split()[1]) > 0.9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "nowhere.png"], "nowhere.png does not exist"),
        (["embed", "{faces}", "-o", "x.txt"], "must end in .npz"),
        (["embed", "{faces}", "-o", "no/such/x.npz"], "does not exist"),
        (["identify", "{faces}/person00/0.png", "nowhere"], "nowhere is not a folder"),
        (["verify", "{faces}/person00/0.png", "nowhere.png"], "nowhere.png does not exist"),
        (["verify", "{faces}/person00/0.png", "{faces}"], "faces is a folder; give the image of one face"),
        (["identify", "{faces}/person00", "{faces}"], "person00 is a folder; give the image of one"),
        (["verify", "{faces}", "{faces}", "--thresholds", "no.json"], "no.json"),
    ],
)  # fmt: skip
def test_mistakes(place, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    arguments = [a.format(faces=place / "faces") for a in arguments]
    error = mistake(capsys, monkeypatch, *arguments, "--model", place / "model.pt")
    assert words in one_line(error)
