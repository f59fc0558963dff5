"""Verification sets: as Python 2 and 3 and NumPy 1 and 2 write them; hostile ones run nothing."""

import errno
import io
import os
import pickle
import struct

import numpy as np
import pytest
from face_files import write_people
from pack_files import face

from fusedface.data import UnreadableImage, read_pairs, write_bin
from fusedface.data.pickles import MAX_OPERATIONS, read_pickle

IMAGES = [face(k) for k in (1, 2, 3, 1, 4, 5, 6, 2)]
SAME = [True, False, True, False]


def arrays(shape=(-1,)):
    return [np.frombuffer(image, np.uint8).reshape(shape).copy() for image in IMAGES]


def as_numpy_1(data):
    """What NumPy before 2.0 wrote: names without the underscore; lengths of short texts are stored."""
    data = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    for module in (b"multiarray", b"numeric"):
        new, old = (b"numpy." + core + b"." + module for core in (b"_core", b"core"))
        data = data.replace(bytes([0x8C, len(new)]) + new, bytes([0x8C, len(old)]) + old)
    if data[2:3] == b"\x95":  # a frame, whose length is wrong now; frames may be left out
        data = data[:2] + data[11:]
    return data


def python_2(images, same):
    """The bytes that cPickle of Python 2 writes for lists of str and bool, in protocol 2."""
    items = b"".join(b"T" + struct.pack("<i", len(image)) + image for image in images)
    truths = b"".join(b"\x88" if s else b"\x89" for s in same)
    return b"\x80\x02](" + items + b"e](" + truths + b"e\x86."


def python_2_array(data):
    """The bytes of a uint8 array in protocol 2 of Python 2, where texts and data are both str."""
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = (
        b"(K\x01"
        + b"K"
        + bytes([len(data)])
        + b"\x85"
        + dtype
        + b"\x89U"
        + bytes([len(data)])
        + data
    )
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR" + state + b"tb"
    )


def check(pairs, path):
    assert len(pairs) == 4
    assert pairs.same.tolist() == SAME
    assert len(pairs.images) == 6  # images 3 and 7 are copies of 0 and 1
    again = [
        pairs.images.encoded(i) for p in zip(pairs.first, pairs.second, strict=True) for i in p
    ]
    assert again == IMAGES
    assert pairs.images.identities is None
    assert pairs.images.image(2)[0, 0].tolist() == [21, 3, 200]
    assert pairs.images.names[3] == f"{path}, image 4"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "kind",
    [
        "bytes",
        "bytearrays",
        "arrays",
        "columns",
        "objects",
        "objects that are arrays",
        "numpy truths",
        "array of truths",
        "objects that are truths",
    ],
)
@pytest.mark.parametrize("numpy_1", [False, True])
def test_sets_of_every_protocol(tmp_path, protocol, kind, numpy_1):
    images, same = IMAGES, SAME
    if kind == "arrays":
        images = arrays()
    if kind == "columns":
        images = arrays((-1, 1))
    if kind == "bytearrays":
        images = [bytearray(image) for image in IMAGES]
    if kind == "objects":
        images = np.array(IMAGES, dtype=object)
    if kind == "objects that are arrays":
        images = np.empty(len(IMAGES), dtype=object)
        images[:] = arrays()
    if kind == "objects that are truths":
        same = np.array(SAME, dtype=object)
    if kind == "numpy truths":
        same = [np.bool_(s) for s in SAME]
    if kind == "array of truths":
        same = np.array(SAME)
    data = pickle.dumps((images, same), protocol=protocol)
    if numpy_1:
        data = as_numpy_1(data)
        assert b"_core" not in data
    (tmp_path / "lfw.bin").write_bytes(data)
    check(read_pairs(tmp_path / "lfw.bin"), tmp_path / "lfw.bin")


def test_set_of_python_2(tmp_path):
    (tmp_path / "lfw.bin").write_bytes(python_2(IMAGES, SAME))
    check(read_pairs(tmp_path / "lfw.bin"), tmp_path / "lfw.bin")


def test_array_of_python_2():
    data = b"\x80\x02" + python_2_array(b"\x00\x80\xffabc") + b"."
    assert np.array_equal(
        pickle.loads(data, encoding="bytes"), np.frombuffer(b"\x00\x80\xffabc", np.uint8)
    )  # so NumPy reads it
    assert read_pickle(data).values().tobytes() == b"\x00\x80\xffabc"


def test_folds_are_ten_of_neighbours(tmp_path):
    same = [i % 2 == 0 for i in range(26)]
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([face(1)] * 52, same)))
    sizes = np.bincount(read_pairs(tmp_path / "x.bin").fold)
    assert sizes.tolist() == [3] * 6 + [2] * 4  # scikit-learn's KFold(10)


class Call:
    """A pickle of this calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(folder):
    """Pickles, and what is said of them. Each would write a file, fill the memory, or crash a reader."""
    marker = str(folder / "ran")
    images = pickle.dumps(IMAGES, protocol=2)[2:-1]
    deep = b"\x80\x02" + b"]" * 3000 + b"a" * 2999 + b"."
    return {
        "open": (pickle.dumps((Call(open, marker, "w"), SAME)), "asks for io.open"),
        "eval": (pickle.dumps(([Call(eval, f"open({marker!r}, 'w')")], SAME)), "asks for builtins.eval"),
        "python 2": (b"(S'touch " + marker.encode() + b"'\nios\nsystem\n.", "the operation INST"),
        "global": (b"cos\nsystem\n(S'touch " + marker.encode() + b"'\ntR.", "asks for os.system"),
        "codec": (b"c_codecs\nencode\n(VQlpo\nVbz2\ntR.", "the codec 'bz2'"),
        "objects": (
            pickle.dumps((np.array([Call(open, marker, "w")], dtype=object), SAME)),
            "asks for io.open",
        ),
        "object type": (
            pickle.dumps(([np.array([None])], SAME)), "an array of something else than bytes"
        ),
        "objects for images": (
            pickle.dumps((np.array([3] * 8, dtype=object), SAME)), "a int in place of an image"
        ),
        "length of a bytearray": (
            b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "asks for a bytearray of a int"
        ),
        "extension": (b"\x80\x02\x82\x01.", "the operation EXT1"),
        "persistent": (b"Pname\n.", "the operation PERSID"),
        "memo": (b"\x80\x02Nr\xff\xff\xff\xff.", f"more than {MAX_OPERATIONS} operations"),
        "length": (b"\x80\x05\x96" + b"\xff" * 6 + b"\x00\x00.", "no whole pickle"),
        "frame": (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "no whole pickle"),
        "deep": (deep, "1 parts instead of 2"),
        "endless number": (b"L" + b"9" * 100_000 + b"L\n.", "no whole pickle"),
        "dict": (pickle.dumps({"a": 1}), "the operation EMPTY_DICT"),
        "cut": (pickle.dumps((IMAGES, SAME))[:-40], "no whole pickle"),
        "empty": (b"", "no whole pickle"),
        "text": (b"1 2 3\n", "no whole pickle"),
        "function": (b"c_codecs\nencode\nN\x86.", "a function in place of a list"),
        "call a list": (b"\x80\x02](" + b"tR.", "no whole pickle"),
        "three": (pickle.dumps((IMAGES, SAME, 1)), "3 parts instead of 2"),
        "number": (pickle.dumps(3), "a int in place of a list"),
        "no bytes": (pickle.dumps(([1] * 8, SAME)), "a int in place of an image"),
        "floats": (pickle.dumps(([np.zeros(3)] * 8, SAME)), "an array of the type 'f8'"),
        "numbers": (pickle.dumps(([np.zeros(3, int)] * 8, SAME)), "of int64 instead of uint8"),
        "cut numbers": (
            pickle.dumps(([np.zeros(3, int)] * 8, SAME), 2).replace(b"\x00" * 24, b"\x00" * 23),
            "x.bin",
        ),
        "truth": (pickle.dumps((IMAGES, [2, 0, 1, 0])), "must be True or False"),
        "one truth too few": (pickle.dumps((IMAGES, SAME[:3])), "8 images and 3 pairs"),
        "one kind": (pickle.dumps((IMAGES, [True] * 4)), "all 4 pairs are of same people"),
        "trick": (b"\x80\x02" + images + b"cnumpy\nndarray\nb.", "not a verification set"),
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile(__import__("pathlib").Path("x")))
def test_hostile_sets_are_refused_and_run_nothing(tmp_path, name):
    data, words = hostile(tmp_path)[name]
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.bin") as error:
        read_pairs(tmp_path / "x.bin")
    assert words in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_many_small_operations_are_refused(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\x80\x02" + b"]" * (MAX_OPERATIONS + 1) + b".")
    with pytest.raises(ValueError, match="more than 5000000 operations"):
        read_pairs(tmp_path / "x.bin")


def test_a_missing_set_and_an_unreadable_image_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*lfw\.bin: No such file"):
        read_pairs(tmp_path / "lfw.bin")
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([*IMAGES[:7], b"broken"], SAME)))
    pairs = read_pairs(tmp_path / "lfw.bin")
    with pytest.raises(UnreadableImage, match=r"lfw\.bin, image 7: not an image"):
        pairs.images.image(int(pairs.second[3]))


def test_written_sets_read_back(tmp_path):
    write_people(tmp_path, suffix=".jpg")
    lines = [
        f"{a}/{a}_000{i}.jpg {b}/{b}_000{j}.jpg {int(a == b)} {fold}"
        for fold in (1, 0)
        for a, b in (("ann", "ann"), ("bob", "cyd"))
        for i, j in ((1, 2), (2, 3), (1, 3))
    ]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    pairs = read_pairs(tmp_path / "pairs.txt")
    assert write_bin(pairs, tmp_path / "x.bin") is False  # two folds became ten
    images, same = pickle.load((tmp_path / "x.bin").open("rb"))
    assert all(type(image) is bytes for image in images)
    assert all(type(s) is bool for s in same)
    again = read_pairs(tmp_path / "x.bin")
    order = np.argsort(pairs.fold, kind="stable")
    assert again.same.tolist() == pairs.same[order].tolist() == same
    for index, p in enumerate(order):
        name = pairs.images.paths[pairs.first[p]]
        assert again.images.encoded(int(again.first[index])) == (tmp_path / name).read_bytes()
    assert write_bin(again, tmp_path / "y.bin") is True
    assert (tmp_path / "y.bin").read_bytes() == (tmp_path / "x.bin").read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        write_bin(pairs, tmp_path / "x.bin")
    assert io.BytesIO(images[0]).read(2) == b"\xff\xd8"


def full_disk(_, file, **__):
    file.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_sets_are_written_where_they_are_read(tmp_path, monkeypatch):
    """The place is looked at before an image is; a set that is half written is taken away."""
    write_people(tmp_path)
    (tmp_path / "pairs.txt").write_text(
        "ann/ann_0001.png ann/ann_0002.png 1 0\nann/ann_0001.png bob/bob_0001.png 0 1\n"
    )
    pairs = read_pairs(tmp_path / "pairs.txt")
    with monkeypatch.context() as patch:
        patch.setattr(pickle, "dump", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_bin(pairs, tmp_path / "x.bin")
    (tmp_path / "ann" / "ann_0001.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"lfw\.txt must end in \.bin"):
        write_bin(pairs, tmp_path / "lfw.txt")
    with pytest.raises(ValueError, match=r"the folder of .*gone/x\.bin does not exist"):
        write_bin(pairs, tmp_path / "gone" / "x.bin")
    with pytest.raises(UnreadableImage, match="ann_0001"):
        write_bin(pairs, tmp_path / "x.bin")
    assert not list(tmp_path.glob("x.bin*"))
