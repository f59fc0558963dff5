"""Faces in LMDB files: read as LMDB's own library wrote them, or refused by name."""

import pickle
import struct

import lmdb
import msgpack
import numpy as np
import pytest
from lmdb_files import write_lmdb
from pack_files import face

from fusedface.data import BadRecord, UnreadableImage, open_source, write_pack
from fusedface.data.check import check
from fusedface.data.lmdb.database import Database
from fusedface.data.lmdb.values import read_labelled_image, read_number

NOISE = np.random.default_rng(0).integers(0, 255, 100_000, dtype=np.uint8).tobytes()


def faces(counts=(3, 1, 2), suffix="PNG"):
    """(image file, label) by number, those of a person together."""
    labels = np.repeat(np.arange(len(counts)), counts).tolist()
    return {k: (face(k, suffix), label) for k, label in enumerate(labels)}


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("number", [0, 1, 3, 400, 3000])
def test_the_tree_is_that_of_the_library(tmp_path, number, in_order):
    """Values in leaf pages and in pages of their own; trees of one level to three; pages in use again."""
    rng = np.random.default_rng(number)
    lengths = [1500, 1900] if number == 3000 else [0, 1, 100, 1500, 2030, 2040, 4080, 4081, 9000]
    sizes = rng.choice(lengths, number)
    records = {k: NOISE[k : k + size] for k, size in enumerate(sizes.tolist())}
    path = tmp_path / "values.lmdb"
    write_lmdb(path, records, {"__len__": number}, in_order=in_order)
    with lmdb.open(str(path), subdir=False, map_size=1 << 27) as database:
        with database.begin(write=True) as transaction:
            for k in range(0, number, 7):  # leaves holes, and makes a later root
                transaction.delete(str(k).encode())
            for k in range(0, number, 14):
                transaction.put(str(k).encode(), NOISE[-k:] or b"new")
        with database.begin() as transaction:
            expected = list(transaction.cursor())
        assert database.stat()["depth"] == {0: 1, 1: 1, 3: 1, 400: 2, 3000: 3}[number]
    ours = Database(path)
    assert [(entry.key, ours.read(entry)) for entry in ours.entries()] == expected
    assert len(expected) == number + 1 - len(range(7, number, 14))


def test_images_labels_and_names(tmp_path):
    records = faces((60, 30, 45), "PNG")
    write_lmdb(tmp_path / "set.lmdb", records)
    source = open_source(tmp_path / "set.lmdb")
    assert source.labels.tolist() == [label for _, label in records.values()]
    assert source.class_names == ["0", "1", "2"]
    assert [source.encoded(i) for i in range(len(source))] == [
        image for image, _ in records.values()
    ]
    assert (source.image(10) == [10 * 7 % 256, 10, 200]).all()
    assert source.notes == ()
    assert source.people() == set()
    assert list(source.files()) == [tmp_path / "set.lmdb"]
    assert "set.lmdb: key 104, byte " in source.describe(104)


def test_long_images_have_pages_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    noise = {k: rng.integers(0, 255, (40, 40, 3), dtype=np.uint8) for k in range(12)}
    records = {k: (b"P6 40 40 255 " + pixels.tobytes(), k % 3) for k, pixels in noise.items()}
    write_lmdb(tmp_path / "set.lmdb", records)
    source = open_source(tmp_path / "set.lmdb")
    for k, pixels in noise.items():
        np.testing.assert_array_equal(source.image(k), pixels)


def test_a_folder_with_data_mdb(tmp_path):
    write_lmdb(tmp_path / "set", faces(), subdir=True)
    assert len(open_source(tmp_path / "set")) == 6


def test_features_between_image_and_label_are_passed_over(tmp_path):
    records = {k: (image, NOISE[:2200], label) for k, (image, label) in faces().items()}
    write_lmdb(tmp_path / "set.lmdb", records)
    source = open_source(tmp_path / "set.lmdb")
    assert source.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert source.encoded(3) == face(3)


def test_a_worker_that_receives_it_pickled_reads_the_same(tmp_path):
    write_lmdb(tmp_path / "set.lmdb", faces())
    source = open_source(tmp_path / "set.lmdb")
    again = pickle.loads(pickle.dumps(source))
    assert [again.encoded(i) for i in range(6)] == [source.encoded(i) for i in range(6)]


def test_it_becomes_a_pack(tmp_path):
    write_lmdb(tmp_path / "set.lmdb", faces())
    write_pack(open_source(tmp_path / "set.lmdb"), tmp_path / "pack")
    pack = open_source(tmp_path / "pack")
    assert pack.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert [pack.encoded(i) for i in range(6)] == [face(k) for k in range(6)]


def test_people_without_images_are_said(tmp_path):
    records = {k: (image, 10 * label) for k, (image, label) in faces().items()}
    write_lmdb(tmp_path / "set.lmdb", records)
    source = open_source(tmp_path / "set.lmdb")
    assert source.class_names == ["0", "10", "20"]
    assert source.notes == (f"{tmp_path / 'set.lmdb'} promises 21 people, it has 3",)


def test_images_that_are_not_there_are_said(tmp_path):
    records = faces()
    del records[2]
    write_lmdb(tmp_path / "set.lmdb", records, {"__len__": 6, "__classnum__": 3})
    source = open_source(tmp_path / "set.lmdb")
    assert source.notes == (f"{tmp_path / 'set.lmdb'} promises 6 images, it has 5",)
    assert "key 3," in source.describe(2)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "no MessagePack array of an image and a label"),
        (face(1), "no MessagePack array of an image and a label"),
        (msgpack.dumps((face(1), 1))[:-1], "it is cut off"),
        (msgpack.dumps((face(1), 1)) + b"\0", "no MessagePack array of an image and a label"),
        (msgpack.dumps((face(1), -1)), "MessagePack type 0xff where bytes or a number belong"),
        (msgpack.dumps((face(1), 1.0)), "MessagePack type 0xcb where"),
        (msgpack.dumps((1, face(1))), "no MessagePack array of an image and a label"),
        (msgpack.dumps((face(1), 1 << 40)), "the label 1099511627776 is above"),
        (b"\x92\xc6\xff\xff\xff\xff", "it is cut off"),
    ],
)
def test_broken_records_are_refused_or_left_out(tmp_path, value, reason):
    write_lmdb(tmp_path / "set.lmdb", faces() | {4: value})
    with pytest.raises(BadRecord, match=rf"set.lmdb: key 4, byte \d+: {reason}"):
        open_source(tmp_path / "set.lmdb")
    source = open_source(tmp_path / "set.lmdb", skip_bad=True)
    assert len(source) == 5
    assert source.notes[0].startswith("left out 1 broken records:\n")
    assert reason in source.notes[0]
    report = check(tmp_path / "set.lmdb")
    assert any(reason in problem for problem in report.problems)


def test_an_image_that_cannot_be_decoded_names_file_key_and_byte(tmp_path):
    write_lmdb(tmp_path / "set.lmdb", faces() | {4: (b"no image", 2)})
    source = open_source(tmp_path / "set.lmdb")
    with pytest.raises(UnreadableImage, match=r"set.lmdb: key 4, byte \d+: not an image"):
        source.image(4)


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ({}, "has no key __len__ and no key __classnum__: a set of another layout"),
        ({"__len__": 6}, "has no key __classnum__"),
        ({"__len__": "six", "__classnum__": 3}, "key __len__: MessagePack type 0xa3"),
        ({"__len__": b"six", "__classnum__": 3}, "key __len__: no number"),
        ({"num-samples": 6}, "key 'num-samples' is neither a number nor __len__"),
    ],
)
def test_other_layouts_are_refused(tmp_path, described, reason):
    write_lmdb(tmp_path / "set.lmdb", faces(), described)
    with pytest.raises(ValueError, match=f"set.lmdb.*{reason}"):
        open_source(tmp_path / "set.lmdb")


def test_one_person_is_refused(tmp_path):
    write_lmdb(tmp_path / "set.lmdb", faces((4,)))
    with pytest.raises(ValueError, match=r"set.lmdb must hold at least 2 identities, found 1"):
        open_source(tmp_path / "set.lmdb")


def test_an_empty_tree_is_refused(tmp_path):
    write_lmdb(tmp_path / "set.lmdb", {}, {})
    with pytest.raises(ValueError, match=r"set.lmdb has no key __len__"):
        open_source(tmp_path / "set.lmdb")


def test_files_that_are_no_lmdb_files(tmp_path):
    path = tmp_path / "set.lmdb"
    for content, reason in [
        (b"", "is empty"),
        (b"x" * 30, "end past the end of the file"),
        (b"x" * 9000, "is not an LMDB file: page 0 lacks its magic number"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"set.lmdb.*{reason}"):
            open_source(path)


def damaged(tmp_path, place, value):
    """A set with one number of its file changed; `place` knows the newer of pages 0 and 1, and the root."""
    path = tmp_path / "set.lmdb"
    write_lmdb(path, {k: (face(k % 100), k % 3) for k in range(900)})
    data = bytearray(path.read_bytes())
    newer = max((0, 4096), key=lambda start: struct.unpack_from("<Q", data, start + 144)[0])
    (root,) = struct.unpack_from("<Q", data, newer + 16 + 24 + 48 + 40)
    struct.pack_into("<H", data, place(newer, 4096 * root), value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (lambda meta, _: meta + 20, 2, "has LMDB's data version 2, 1 is read"),
        (lambda meta, _: meta + 16 + 24 + 48 + 4, 4, "its tree has the flags 0x4"),
        (lambda meta, _: meta + 16 + 24 + 48 + 6, 9000, "the depth 9000"),
        (lambda meta, _: meta + 16 + 24 + 48 + 6, 1, "no leaf page of the tree"),
        (lambda meta, _: meta + 16 + 24 + 48 + 6, 9, "no branch page of the tree"),
        (lambda _, root: root + 10, 2, "no branch page of the tree"),
        (lambda _, root: root, 7, "no branch page of the tree"),
        (lambda _, root: root + 12, 5000, "its pointers end at 5000"),
        (lambda _, root: root + 16, 4095, "a node longer than its page"),
        (lambda _, root: root + 18, 16, "no leaf page of the tree|past the end of the file"),
    ],
)
def test_damaged_trees(tmp_path, place, value, reason):
    with pytest.raises(ValueError, match=f"set.lmdb.*({reason})"):
        open_source(damaged(tmp_path, place, value))


def test_a_page_twice_is_refused(tmp_path):
    path = tmp_path / "set.lmdb"
    write_lmdb(path, {k: (face(k % 100), k % 3) for k in range(900)})
    data = bytearray(path.read_bytes())
    newer = max((0, 4096), key=lambda start: struct.unpack_from("<Q", data, start + 144)[0])
    root = 4096 * struct.unpack_from("<Q", data, newer + 16 + 24 + 48 + 40)[0]
    struct.pack_into("<H", data, root + 18, struct.unpack_from("<H", data, root + 16)[0])
    path.write_bytes(data)
    with pytest.raises(BadRecord, match=r"set.lmdb: byte \d+: the tree has a page twice"):
        open_source(path)


def test_keys_that_do_not_rise_are_refused(tmp_path):
    """Pointers of a leaf that all lead to one node would be so many entries of one value."""
    path = tmp_path / "set.lmdb"
    write_lmdb(path, faces())
    data = bytearray(path.read_bytes())
    newer = max((0, 4096), key=lambda start: struct.unpack_from("<Q", data, start + 144)[0])
    leaf = 4096 * struct.unpack_from("<Q", data, newer + 16 + 24 + 48 + 40)[0]
    (first,) = struct.unpack_from("<H", data, leaf + 16)
    for pointer in range(leaf + 18, leaf + struct.unpack_from("<H", data, leaf + 12)[0], 2):
        struct.pack_into("<H", data, pointer, first)
    path.write_bytes(data)
    for skip_bad in (False, True):
        with pytest.raises(
            BadRecord, match=r"set.lmdb: byte \d+: its key is not above the one before"
        ):
            open_source(path, skip_bad=skip_bad)


def test_a_file_that_is_cut_while_it_is_read(tmp_path):
    path = tmp_path / "set.lmdb"
    write_lmdb(path, faces())
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises(ValueError, match=r"had \d+ bytes when it was opened and has 4096 now"):
        source.image(0)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 65535, 65536])
@pytest.mark.parametrize("label", [0, 127, 128, 255, 256, 65535, 65536, 1 << 31])
@pytest.mark.parametrize("use_bin_type", [True, False])
def test_values_are_those_of_the_library(size, label, use_bin_type):
    """Without use_bin_type, as before its version 1.0, bytes are written as text."""
    image = NOISE[:1] * size
    value = msgpack.dumps((image, label), use_bin_type=use_bin_type)
    if size < 32 and not use_bin_type:  # so short that the type has the length in it: no image
        with pytest.raises(ValueError, match="MessagePack type"):
            read_labelled_image(value)
    else:
        assert read_labelled_image(value) == (image, label)
    assert read_number(msgpack.dumps(label)) == label
