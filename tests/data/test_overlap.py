"""Verification sets that hold people or images of the training set are reported by name and by bytes."""

import shutil

import pytest
from face_files import write_image, write_people

from fusedface.data import open_source, read_pairs, write_bin, write_pack
from fusedface.data.overlap import overlaps

PAIRS = "{0}/{0}_0001.png {0}/{0}_0002.png 1 0\n{0}/{0}_0001.png {1}/{1}_0001.png 0 1\n"


@pytest.fixture
def trained(tmp_path):
    return write_people(tmp_path / "train")


def pairs_of(root, *names):
    path = root.with_suffix(".txt")
    path.write_text(PAIRS.format(*names))
    return read_pairs(path, root)


def overlap(source, pairs):
    return overlaps(source, {"set": pairs})["set"]


def test_strangers(tmp_path, trained):
    for k, name in enumerate(("eve", "fay")):
        for i in (1, 2):
            write_image(tmp_path / "test" / name / f"{name}_000{i}.png", (k + 1, 9 * i, 250))
    found = overlap(open_source(trained), pairs_of(tmp_path / "test", "eve", "fay"))
    assert (found.names, found.num_people, found.images) == ((), 2, 0)
    assert str(found) == "no name and no image of it is among the training people and images"


def test_the_same_people_on_other_photos(tmp_path, trained):
    for k, name in enumerate(("bob", "fay")):
        for i in (1, 2):
            write_image(tmp_path / "test" / name / f"{name}_000{i}.png", (k + 1, 9 * i, 250))
    found = overlap(open_source(trained), pairs_of(tmp_path / "test", "bob", "fay"))
    assert (found.names, found.num_people, found.images) == (("bob",), 2, 0)
    assert "1 of its 2 people have the names of training people (bob)" in str(found)


def test_the_same_photos_under_other_names(tmp_path, trained):
    for old, new in (("ann", "eve"), ("bob", "fay")):
        for i in (1, 2):
            (tmp_path / "test" / new).mkdir(parents=True, exist_ok=True)
            target = tmp_path / "test" / new / f"{new}_000{i}.png"
            shutil.copy(trained / old / f"{old}_000{i}.png", target)
    pairs = pairs_of(tmp_path / "test", "eve", "fay")
    found = overlap(open_source(trained), pairs)
    assert (found.names, found.images, found.num_images) == ((), 3, 3)
    assert "3 of its 3 images are training images" in str(found)
    write_bin(pairs, tmp_path / "set.bin")
    found = overlap(open_source(trained), read_pairs(tmp_path / "set.bin"))
    assert (found.num_people, found.images) == (0, 3)
    write_pack(open_source(trained), tmp_path / "pack")
    assert overlap(open_source(tmp_path / "pack"), pairs).images == 3


def test_numbers_are_names_only_in_the_same_folder(tmp_path):
    write_people(tmp_path / "train", names=("0", "1"))
    for k, name in enumerate("01"):
        for i in (1, 2):
            write_image(tmp_path / "test" / name / f"{name}_000{i}.png", (k + 1, 9 * i, 250))
    source = open_source(tmp_path / "train")
    assert overlap(source, pairs_of(tmp_path / "test", "0", "1")).names == ()
    assert overlap(source, pairs_of(tmp_path / "train", "0", "1")).names == ("0", "1")


def test_names_come_from_the_folders_where_labels_are_numbers(tmp_path, trained):
    lines = [f"train/{n}/{n}_0001.png {i}" for i, n in enumerate(("ann", "bob"))]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found = overlap(open_source(tmp_path / "list.txt"), pairs_of(trained, "bob", "cyd"))
    assert found.names == ("bob",)


def test_a_part_of_the_training_images_is_said_to_be_one(tmp_path, trained, monkeypatch):
    monkeypatch.setattr("fusedface.data.overlap.COMPARED_IMAGES", 4)
    (trained / "ann" / "ann_0001.png").unlink()
    (trained / "ann" / "ann_0002.png").write_bytes(b"no image")
    write_pack(open_source(trained), tmp_path / "pack", skip_bad=True)
    write_people(tmp_path / "test", names=("eve", "fay"), suffix=".jpg")
    (tmp_path / "test.txt").write_text(PAIRS.format("eve", "fay").replace("png", "jpg"))
    found = overlap(
        open_source(tmp_path / "pack"), read_pairs(tmp_path / "test.txt", tmp_path / "test")
    )
    assert not found.all_compared
    assert "among the training images (of 4 looked at); names cannot be compared" in str(found)
