"""`data check` on files whose faults are known."""

import shutil

import pytest
from face_files import write_image, write_people
from pack_files import header, people_records, write_pack_by_hand
from PIL import Image

from fusedface.data import open_source, read_pairs, write_bin, write_pack
from fusedface.data.check import check


def facts(report):
    return dict(report.facts)


def test_a_sound_folder(tmp_path):
    report = check(write_people(tmp_path))
    assert report.kind == "labelled images"
    assert facts(report) == {
        "people": "3, with 3 images",
        "people with one image": "0",
        "images": "9",
        "sizes (height x width)": "112x112: 9",
        "unreadable images": "0",
        "copies of other images": "0",
        "copies under another person": "0",
    }
    assert report.problems == []


def test_what_is_wrong_with_a_folder(tmp_path):
    root = write_people(tmp_path)
    shutil.copy(root / "ann" / "ann_0001.png", root / "ann" / "copy.png")
    shutil.copy(root / "ann" / "ann_0001.png", root / "bob" / "also.png")
    (root / "bob" / "broken.png").write_bytes(b"no image")
    write_image(root / "dan" / "only.png", size=(64, 48))
    seen = []
    report = check(root, progress=lambda done, total: seen.append((done, total)))
    found = facts(report)
    assert found["people"] == "4, with 1 to 5 images (median 4)"
    assert found["people with one image"] == "1"
    assert found["sizes (height x width)"] == "112x112: 11, 64x48: 1"
    assert found["unreadable images"] == "1"
    assert found["copies of other images"] == "2"
    assert found["copies under another person"] == "1"
    assert seen[-1] == (13, 13)
    unreadable, twice = report.problems
    assert unreadable.startswith("1 unreadable images:")
    assert "broken.png: not an image of a known kind" in unreadable
    assert "also.png is" in twice
    assert "ann_0001.png" in twice


def test_a_pack_with_a_broken_record(tmp_path):
    pack = tmp_path / "pack"
    write_pack(open_source(write_people(tmp_path / "people")), pack)
    sound = check(pack)
    assert sound.kind == "RecordIO pack"
    assert (
        facts(sound)["records"] == "13, of which 0 are not in the index"
    )  # 9 images, 3 people, its own
    assert sound.problems == []
    lines = (pack / "train.idx").read_text().splitlines()
    offset = int(lines[5].split("\t")[1])
    data = bytearray((pack / "train.rec").read_bytes())
    data[offset] ^= 1
    (pack / "train.rec").write_bytes(data)
    broken = check(pack)
    assert facts(broken)["images"] == "8"
    assert any(f"byte {offset}" in problem for problem in broken.problems)


def test_what_training_refuses_is_a_problem(tmp_path):
    """The same reader as training's: labels by ranges, and the pack's own record against the index."""
    write_pack_by_hand(tmp_path / "own", people_records((3, 1, 2)) | {0: header([9, 10], 0, 1)})
    with pytest.raises(ValueError, match="images end before key 9"):
        open_source(tmp_path / "own")
    report = check(tmp_path / "own")
    assert facts(report)["images"] == "6"
    assert any("refused without --skip-bad" in p and "key 9" in p for p in report.problems)
    write_pack_by_hand(tmp_path / "label", people_records((3, 3), labels=[0, 1, 0, 1, 1, 1]))
    report = check(tmp_path / "label")
    assert facts(report)["unreadable images"] == "1"
    assert any("its label is 1" in problem for problem in report.problems)


def test_files_of_other_formats_are_a_problem(tmp_path):
    root = write_people(tmp_path)
    Image.new("RGB", (8, 8)).save(root / "ann" / "moving.gif")
    assert any("1 .gif files" in problem for problem in check(root).problems)


def test_pair_lists_and_bins(tmp_path):
    root = write_people(tmp_path / "people")
    path = tmp_path / "pairs.txt"
    path.write_text(
        "ann/ann_0001.png ann/ann_0002.png 1 0\nann/ann_0001.png bob/bob_0001.png 0 1\n"
    )
    report = check(path, root)
    assert report.kind == "pair list"
    assert facts(report)["pairs"] == "2: 1 of one person, 1 of two"
    assert facts(report)["folds"] == "2, of 1 pairs"
    assert facts(report)["images"] == "3"
    write_bin(read_pairs(path, root), tmp_path / "set.bin")
    assert check(tmp_path / "set.bin").kind == "verification set"
    (root / "bob" / "bob_0001.png").write_bytes(b"")
    assert "bob_0001.png: the file is empty" in check(path, root).problems[0]


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        check(tmp_path / "nothing")
    (tmp_path / "pairs.txt").write_text("")
    with pytest.raises(ValueError, match=r"pairs\.txt is empty"):
        check(tmp_path / "pairs.txt")
