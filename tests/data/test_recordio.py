"""RecordIO packs against bytes made by hand: what is read, what is written, what is said about damage."""

import io
import pickle

import numpy as np
import pytest
from face_files import write_image, write_people
from pack_files import MAGIC, face, header, part, people_records, write_pack_by_hand

from fusedface.data import (
    BadRecord,
    FaceSource,
    SyntheticFaces,
    UnreadableImage,
    open_source,
    write_pack,
)
from fusedface.data.recordio.index import read_index
from fusedface.data.recordio.records import MAX_PARTS, MAX_RECORD_BYTES, RecordFile, write_record

# Data, and the parts it must fall into: the magic is cut out where it begins at a multiple of 4.
SPLIT = {
    "empty": (b"", [(0, b"")]),
    "short": (b"abc", [(0, b"abc")]),
    "no multiple of 4": (b"ab" + MAGIC + b"cd", [(0, b"ab" + MAGIC + b"cd")]),
    "the magic alone": (MAGIC, [(1, b""), (3, b"")]),
    "at the end": (b"abcd" + MAGIC, [(1, b"abcd"), (3, b"")]),
    "twice": (b"abcd" + MAGIC + b"efgh" + MAGIC + b"i", [(1, b"abcd"), (2, b"efgh"), (3, b"i")]),
    "in a row": (MAGIC * 3 + b"xy", [(1, b""), (2, b""), (2, b""), (3, b"xy")]),
    "both": (b"a" + MAGIC + b"bcd" + MAGIC, [(1, b"a" + MAGIC + b"bcd"), (3, b"")]),
}


@pytest.mark.parametrize("name", SPLIT)
def test_records_are_split_at_the_magic_and_joined_again(tmp_path, name):
    data, parts = SPLIT[name]
    file = io.BytesIO(b"")
    file.write(part(0, b"before"))
    offset = write_record(file, data)
    assert file.getvalue()[offset:] == b"".join(part(*p) for p in parts)
    write_record(file, b"after")
    (tmp_path / "x.rec").write_bytes(file.getvalue())
    records = RecordFile(tmp_path / "x.rec")
    assert records.read(offset) == data
    offsets = list(records.offsets())
    assert [records.read(o) for o in offsets] == [b"before", data, b"after"]


def test_insightface_pack(tmp_path):
    offsets = write_pack_by_hand(tmp_path, people_records((3, 1, 2)), "3,8,8")
    source = open_source(tmp_path)
    assert isinstance(source, FaceSource)
    assert (len(source), source.num_classes, source.class_names) == (6, 3, ["0", "1", "2"])
    assert source.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert source.notes == ()
    for index in range(6):
        assert source.encoded(index) == face(index + 1)
        assert source.image(index)[0, 0].tolist() == [(index + 1) * 7 % 256, index + 1, 200]
    assert source.describe(4) == f"{tmp_path / 'train.rec'}: key 5, byte {offsets[5]}"
    again = pickle.loads(pickle.dumps(source))  # to a worker process
    assert np.array_equal(again.image(4), source.image(4))
    by_file = open_source(tmp_path / "train.rec", skip_bad=True)
    assert (by_file.labels.tolist(), by_file.notes) == (source.labels.tolist(), ())


def test_pack_without_a_record_of_its_own(tmp_path):
    """As im2rec writes it: key 0 is an image; keys have gaps and no order; some labels are arrays."""
    records = {
        7: header([30.0, 5.0, 6.0]) + face(7),
        0: header(10.0) + face(0),
        3: header([20.0]) + face(3),
        12: header(10.0) + face(12),
    }
    write_pack_by_hand(tmp_path, records)
    source = open_source(tmp_path)
    assert source.keys.tolist() == [0, 3, 7, 12]
    assert source.class_names == ["10", "20", "30"]
    assert source.labels.tolist() == [0, 1, 2, 0]
    assert [source.encoded(i) for i in range(4)] == [face(k) for k in (0, 3, 7, 12)]


def test_key_0_with_labels_and_an_image_is_an_image(tmp_path):
    records = {k: header([float(k % 2), 9.0]) + face(k) for k in range(4)}
    write_pack_by_hand(tmp_path, records)
    assert open_source(tmp_path).labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("second", [3, 7, 0])
def test_pack_without_records_of_identities(tmp_path, second):
    """Key 0 is (N + 1, number of identities): insightface's loader takes the keys 1 to N from it."""
    records = people_records((3, 1, 2))
    records = {k: records[k] for k in range(1, 7)} | {0: header([7, second], 0, 1)}
    write_pack_by_hand(tmp_path, records)
    for skip_bad in (False, True):
        source = open_source(tmp_path, skip_bad=skip_bad)
        assert source.labels.tolist() == [0, 0, 0, 1, 2, 2]
        assert source.keys.tolist() == [1, 2, 3, 4, 5, 6]
        assert source.notes == ()
        assert source.encoded(5) == face(6)
    records[0] = header([9, second], 0, 1)
    write_pack_by_hand(tmp_path, records)
    with pytest.raises(ValueError, match="images end before key 9, the records say 7"):
        open_source(tmp_path)


def test_an_image_that_holds_the_magic(tmp_path):
    data = header(0.0) + face(1)
    data += bytes(-len(data) % 4) + MAGIC + b"trailer"  # what follows an image's end is ignored
    cut = data.index(MAGIC)
    records = people_records((3, 1, 2)) | {2: [(1, data[:cut]), (3, data[cut + 4 :])]}
    write_pack_by_hand(tmp_path, records)
    for skip_bad in (False, True):
        source = open_source(tmp_path, skip_bad=skip_bad)
        assert source.labels.tolist() == [0, 0, 0, 1, 2, 2]
        assert header(0.0) + source.encoded(1) == data


def test_ranges_off_by_one_do_not_decide(tmp_path):
    """As float32 rounds them beyond 2^24: neighbours agree with each other, and not with the images."""
    counts = (3, 1, 2, 1, 4)
    wrong = [(1, 5), (5, 5), (5, 6), (6, 8), (8, 12)]
    write_pack_by_hand(tmp_path, people_records(counts, ranges=wrong))
    assert open_source(tmp_path).labels.tolist() == [0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("wrong", [[(1, 10), (10, 5), (5, 12)], [(1, 0), (0, 9), (9, 12)]])
def test_ranges_that_turn_back_do_not_decide(tmp_path, wrong):
    write_pack_by_hand(tmp_path, people_records((5, 4, 2), ranges=wrong))
    assert open_source(tmp_path).labels.tolist() == [0] * 5 + [1] * 4 + [2] * 2


def test_a_label_that_disagrees_with_its_range_is_told(tmp_path):
    write_pack_by_hand(tmp_path, people_records((3, 3), labels=[0, 1, 0, 1, 1, 1]))
    source = open_source(tmp_path)
    with pytest.raises(UnreadableImage, match=r"key 2, byte \d+: its label is 1, .* range of 0"):
        source.image(1)
    assert open_source(tmp_path, skip_bad=True).labels.tolist() == [0, 1, 0, 1, 1, 1]


def test_property_that_promises_other_numbers_is_told(tmp_path):
    write_pack_by_hand(tmp_path, people_records(), "85742,112,112")
    assert "promises 85742 identities, the pack has 3" in open_source(tmp_path).notes[0]


def broken_pack(folder, damage):
    """A pack of six images with one kind of damage."""
    records = people_records((3, 1, 2))
    if damage == "label":
        records[2] = header(0.5) + face(2)
    if damage == "few labels":
        records[2] = header([1.0] * 9)[:-8]
    if damage == "own record":
        records[0] = header([9, 10], 0, 1)
    if damage == "own end":
        records[0] = header([7, 11], 0, 1)
    offsets = write_pack_by_hand(folder, records)
    rec, idx = folder / "train.rec", folder / "train.idx"
    data, lines = bytearray(rec.read_bytes()), idx.read_text().splitlines()
    if damage == "magic":
        data[offsets[1]] ^= 255
    if damage == "length":
        data[offsets[1] + 4 : offsets[1] + 8] = (9999).to_bytes(4, "little")
    if damage == "huge length":
        data[offsets[1] + 4 : offsets[1] + 8] = (MAX_RECORD_BYTES + 1).to_bytes(4, "little")
    if damage == "first part alone":
        data[offsets[1] + 7] |= 1 << 5
    if damage == "last part":
        data[offsets[1] + 7] |= 3 << 5
    if damage == "cut":
        data = data[: offsets[6] + 4]
    if damage == "past the end":
        lines[2] = f"3\t{len(data) + 100}"
    if damage == "past 2^63":
        lines[2] = f"3\t{2**63 + 8}"
    if damage == "text":
        lines[2] = "three\t100"
    if damage == "columns":
        lines[2] = "3\t100\t4"
    if damage == "fraction":
        lines[2] = "3\t1.5"
    if damage == "negative":
        lines[2] = "3\t-8"
    if damage == "twice":
        lines[2] = lines[1]
    if damage == "missing key":
        del lines[2]
    if damage == "long index":
        lines = lines * 50
    rec.write_bytes(data)
    idx.write_bytes(("\n".join(lines) + "\n").encode())
    if damage == "no index":
        idx.unlink()
    if damage == "empty index":
        idx.write_bytes(b"")
    if damage == "binary index":
        idx.write_bytes(b"\xff\xfe\x00\n")
    if damage == "empty":
        rec.write_bytes(b"")
    return offsets


DAMAGE = {
    "magic": ["train.rec: key 1, byte 0: no record begins here"],
    "length": ["key 1, byte 0: cut off", "of 9999 bytes lie past the end"],
    "huge length": ["key 1, byte 0:", "more than 67108864"],
    "first part alone": ["key 1, byte 0:", "of another record"],
    "last part": ["key 1, byte 0:", "in the midst of a record"],
    "cut": ["key 0, byte ", "past the end of the file", "so are 4 more of 10 records"],
    "past the end": ["key 3, byte ", "past the end of the file"],
    "past 2^63": ["train.idx: expected lines of 'key<TAB>byte offset'", "row 2"],
    "text": ["train.idx: expected lines of 'key<TAB>byte offset'", "'three'", "row 2"],
    "columns": ["train.idx: expected lines of 'key<TAB>byte offset'", "row 3"],
    "fraction": ["train.idx: expected lines of 'key<TAB>byte offset'"],
    "negative": ["train.idx: key 3, byte -8: must not be negative"],
    "twice": ["train.idx: key 2 and 0 more occur twice"],
    "missing key": ["the index has no key 3, though keys up to 9"],
    "long index": ["train.idx has", "more than an index of a .rec file"],
    "no index": ["cannot read", "train.idx: No such file"],
    "empty index": ["train.idx: expected lines"],
    "binary index": ["train.idx: expected lines"],
    "empty": ["train.rec is empty"],
    "own record": ["(key 0) says that images end before key 9, the records say 7"],
    "own end": ["(key 0) says that keys end before 11, the index has 9"],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_with_file_key_and_byte(tmp_path, damage):
    broken_pack(tmp_path, damage)
    with pytest.raises(ValueError, match=r"train\.") as error:
        open_source(tmp_path)
    assert all(words in str(error.value) for words in DAMAGE[damage]), str(error.value)


# What is left of the images 1 to 6, and what is said of the rest.
SKIPPED = {
    "magic": ([2, 3, 4, 5, 6], "left out 1 broken records:", "key 1, byte 0: no record begins"),
    "length": ([2, 3, 4, 5, 6], "left out 1 broken records:", "key 1, byte 0: cut off"),
    "cut": ([1, 2, 3, 4, 5], "left out 5 broken records:", "key 6, byte "),
    "past the end": ([1, 2, 4, 5, 6], "left out 1 broken records:", "key 3, byte "),
    "label": ([1, 3, 4, 5, 6], "left out 1 broken records:", "the label 0.5 is no class number"),
    "few labels": ([1, 3, 4, 5, 6], "left out 1 broken", "too few for the 9 labels"),
    "missing key": ([1, 2, 4, 5, 6], "", ""),
}


@pytest.mark.parametrize("damage", SKIPPED)
def test_skipping_counts_and_lists(tmp_path, damage):
    broken_pack(tmp_path, damage)
    source = open_source(tmp_path, skip_bad=True)
    keys, *words = SKIPPED[damage]
    assert source.keys.tolist() == keys
    people = dict(zip(range(1, 7), (0, 0, 0, 1, 2, 2), strict=True))
    assert [source.class_names[label] for label in source.labels] == [str(people[k]) for k in keys]
    assert all(word in "\n".join(source.notes) for word in words), source.notes


def test_a_broken_record_within_a_range_is_an_unreadable_image(tmp_path):
    offsets = broken_pack(tmp_path, "few labels")
    with pytest.raises(UnreadableImage, match=f"key 2, byte {offsets[2]}: .* 9 labels"):
        open_source(tmp_path).image(1)


def test_one_record_costs_a_bounded_amount(tmp_path):
    (tmp_path / "x.rec").write_bytes(part(1, b"") + part(2, b"") * (MAX_PARTS + 9) + part(3, b""))
    with pytest.raises(BadRecord, match="or 65536 parts"):
        RecordFile(tmp_path / "x.rec").read(0)
    for data in (bytes(MAX_RECORD_BYTES + 1), MAGIC * MAX_PARTS):
        with pytest.raises(ValueError, match="a record has at most 67108864 bytes and 65536 parts"):
            write_record(io.BytesIO(), data)


def test_a_file_that_is_cut_under_a_run_is_told(tmp_path):
    write_pack_by_hand(tmp_path, people_records())
    source = open_source(tmp_path)
    with (tmp_path / "train.rec").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"bytes when it was opened and has 100 now"):
        source.image(4)


def test_written_packs_read_back_identically(tmp_path):
    source = open_source(write_people(tmp_path / "faces", suffix=".jpg"))
    written = write_pack(source, tmp_path / "pack")
    assert written == (9, 3, (112, 112), ())
    pack = open_source(tmp_path / "pack")
    assert np.array_equal(pack.labels, source.labels)
    for index in range(9):
        assert pack.encoded(index) == source.path(index).read_bytes()
        assert np.array_equal(pack.image(index), source.image(index))
    assert (tmp_path / "pack" / "property").read_text() == "3,112,112\n"
    index = read_index(tmp_path / "pack" / "train.idx", 10**6)
    records = RecordFile(tmp_path / "pack" / "train.rec")
    assert index.keys.tolist() == list(range(13))
    assert list(records.offsets()) == sorted(index.offsets)
    assert records.read(int(index.offsets[0])) == header([10, 13], 0, 1)
    assert records.read(int(index.offsets[11])) == header([4, 7], 11)
    assert records.read(int(index.offsets[4]))[:24] == header(1.0, 4)
    again = write_pack(pack, tmp_path / "again")
    assert again.num_images == 9
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "pack" / name).read_bytes()


def test_generated_faces_are_packed_without_loss(tmp_path):
    source = SyntheticFaces(3, 2)
    write_pack(source, tmp_path)
    pack = open_source(tmp_path)
    assert all(np.array_equal(pack.image(i), source.image(i)) for i in range(6))


def test_what_cannot_be_packed(tmp_path):
    faces = write_people(tmp_path / "faces")
    (faces / "bob" / "bob_0002.png").write_bytes(b"broken")
    for path in (faces / "cyd").iterdir():
        path.write_bytes(b"broken")
    source = open_source(faces)
    with pytest.raises(UnreadableImage, match="bob_0002"):
        write_pack(source, tmp_path / "pack")
    assert list((tmp_path / "pack").iterdir()) == []
    written = write_pack(source, tmp_path / "pack", skip_bad=True)
    assert written[:2] == (5, 2)  # a person without a readable image has no number
    assert len(written.skipped) == 4
    assert open_source(tmp_path / "pack").labels.tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="exists already"):
        write_pack(source, tmp_path / "pack")
    write_image(faces / "bob" / "bob_0003.png", size=(96, 112))
    with pytest.raises(ValueError, match=r"bob_0003\.png is 96x112, others are 112x112"):
        write_pack(source, tmp_path / "other", skip_bad=True)
