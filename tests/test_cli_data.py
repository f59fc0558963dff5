"""`data check | pack | make-bin | align`, a run of an LMDB file, and what they print."""

import json

import numpy as np
import pytest
from cli_calls import invoke
from face_files import write_image, write_people
from lmdb_files import write_lmdb
from tiny_run import write_faces

from fusedface.data import open_source, read_pairs
from fusedface.data.align import TEMPLATE
from fusedface.recipes.report import curves

PAIRS = "ann/ann_0001.png ann/ann_0002.png 1 0\nann/ann_0001.png bob/bob_0001.png 0 1\n"


def test_check_says_by_its_status_whether_all_is_well(tmp_path):
    root = write_people(tmp_path)
    assert "people with one image" in invoke("data", "check", root)
    (root / "bob" / "broken.png").write_bytes(b"")
    assert "the file is empty" in invoke("data", "check", root, code=1)


def test_a_pack_of_a_folder_reads_back(tmp_path):
    root = write_people(tmp_path / "people")
    assert "9 images, 112x112, of 3 people" in invoke("data", "pack", root, tmp_path / "pack")
    one, other = open_source(root), open_source(tmp_path / "pack")
    assert np.array_equal(one.labels, other.labels)
    assert all(one.encoded(i) == other.encoded(i) for i in range(9))


def test_an_lmdb_file_is_checked_and_packed(tmp_path):
    people = open_source(write_people(tmp_path / "people"))
    records = {k: (people.encoded(k), int(people.labels[k])) for k in range(9)}
    write_lmdb(tmp_path / "set.lmdb", records)
    output = invoke("data", "check", tmp_path / "set.lmdb")
    assert "3, with 3 images" in output
    packed = invoke("data", "pack", tmp_path / "set.lmdb", tmp_path / "pack")
    assert "9 images, 112x112, of 3 people" in packed
    pack = open_source(tmp_path / "pack")
    assert [pack.encoded(i) for i in range(9)] == [people.encoded(i) for i in range(9)]


def test_a_run_of_an_lmdb_file_by_a_recipe_for_such_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "plot_curves", lambda _folder: [])  # longer than the run
    folder = write_faces(tmp_path)
    people = open_source(folder / "train")
    records = {k: (people.encoded(k), int(people.labels[k])) for k in range(len(people))}
    write_lmdb(tmp_path / "set.lmdb", records | {3: b"no record"})
    small = ("backbone.input_size=[32, 32]", "backbone.width=0.25", "backbone.embedding_dim=16")
    short = (
        "optim.batch_size=8",
        "schedule.warmup_steps=0",
        "schedule.steps=2",
        "data.num_workers=0",
    )
    arguments = ["--data", tmp_path / "set.lmdb", "--pairs", folder / "pairs.csv"]
    arguments += [word for setting in (*small, *short) for word in ("--set", setting)]
    run = ("recipe", "run", "mobilefacenet-hsface10k", *arguments, "--device", "cpu", "--out")
    with pytest.raises(ValueError, match=r"set.lmdb: key 3, byte \d+: no MessagePack array"):
        invoke(*run, tmp_path / "broken")
    assert "left out 1 broken records" in invoke(*run, tmp_path / "run", "--skip-bad")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["num_images"], summary["num_identities"]) == (35, 6)
    assert (summary["steps"], set(summary["verification"])) == (2, {"pairs"})


def test_a_broken_image_is_left_out_only_when_asked(tmp_path):
    root = write_people(tmp_path / "people")
    (root / "bob" / "bob_0002.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"bob_0002\.png: the file is empty"):
        invoke("data", "pack", root, tmp_path / "pack")
    assert not (tmp_path / "pack" / "train.rec").exists()
    output = invoke("data", "pack", root, tmp_path / "pack", "--skip-bad")
    assert "left out 1:" in output
    assert "bob_0002.png" in output
    assert "8 images" in output


def test_preview_is_bounded(tmp_path):
    """Before a hundred thousand people are made up, or a picture of 34 GB is begun."""
    for option in ("--identities", "--images"):
        with pytest.raises(ValueError, match=r"a sheet has 1 to 64 .*, got 100000"):
            invoke("data", "preview", option, 100_000, "--out", tmp_path / "x.png")


def test_make_bin(tmp_path):
    root = write_people(tmp_path / "people")
    (tmp_path / "pairs.txt").write_text(PAIRS)
    output = invoke("data", "make-bin", root, tmp_path / "pairs.txt", tmp_path / "set.bin")
    assert "2 pairs of 3 images" in output
    assert read_pairs(tmp_path / "set.bin").same.tolist() == [True, False]


def test_align(tmp_path):
    pytest.importorskip("cv2")
    pixels = write_image(tmp_path / "in" / "ann" / "1.png")
    numbers = ",".join(f"{v:.4f}" for v in TEMPLATE.ravel())
    (tmp_path / "points.csv").write_text(f"ann/1.png,{numbers}\n")
    arguments = ("data", "align", tmp_path / "in", tmp_path / "points.csv", tmp_path / "out")
    assert "1 crops of 112x112" in invoke(*arguments)
    assert np.array_equal(open_image(tmp_path / "out" / "ann" / "1.png"), pixels)


def open_image(path):
    from fusedface.data.sources.images import read_image

    return read_image(path)
