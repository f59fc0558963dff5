"""Damaged and hostile files: each reader answers or refuses by name. `tests/fuzz.py` goes on for longer."""

import codecs
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import torch
from face_files import write_image, write_people
from hostile_readers import READERS, mutate, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusedface.data import open_source, read_pairs
from fusedface.data.sources.images import UnreadableImage, read_image
from fusedface.models import Preprocessing, build_from_checkpoint
from fusedface.models.checkpoints import FORMAT, VERSION
from fusedface.recipes.configuration.settings import read_recipe

MEMORY_BOUND = 256 << 20
"""Bytes that a hostile file of a few kilobytes may cost; those below would take gigabytes."""

fast = settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module", params=READERS)
def target(request, tmp_path_factory):
    """A reader, its file's path, and valid contents."""
    reader = READERS[request.param]
    folder = tmp_path_factory.mktemp("hostile")
    return reader, folder / reader.name, reader.valid(folder)


def test_valid_files_are_read(target):
    reader, path, valid = target
    if path.suffix == ".safetensors":
        pytest.skip("only tensors: they fit no backbone")
    assert {outcome(reader, path, data) for data in valid} == {"read"}


@fast
@given(rng=st.randoms(use_true_random=False), which=st.integers(0, 9))
def test_damaged_files(target, rng, which):
    reader, path, valid = target
    outcome(reader, path, mutate(valid[which % len(valid)], rng))


@fast
@given(data=st.binary(max_size=2000))
def test_any_bytes(target, data):
    reader, path, _ = target
    outcome(reader, path, data)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("data", [b"", b"\0" * 4096, b"\xff\xfe" * 100, b"\n" * 9999, b"a" * 10**6])
def test_empty_null_and_endless(kind, data, tmp_path):
    reader = READERS[kind]
    reader.valid(tmp_path)
    # An empty cache is one whose first line a full disk cut short; it is written again.
    expected = "read" if (kind, data) == ("teacher's cache", b"") else "refused"
    assert outcome(reader, tmp_path / reader.name, data) == expected


def bombs(folder):
    """Small files that ask for gigabytes, and what reads them."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    with (
        zipfile.ZipFile(folder / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("model/data.pkl", "w", force_zip64=True) as member,
    ):
        for _ in range(512):
            member.write(bytes(1 << 20))
    # A network of 34 GB, of which the file holds nothing.
    config = {"name": "iresnet18", "embedding_dim": 4096, "input_size": (512, 512), "width": 4.0}
    archive = {
        "format": FORMAT, "version": VERSION, "backbone": config, "model": {}, "step": 3,
        "preprocessing": Preprocessing(input_size=(512, 512)).as_dict(),
    }  # fmt: skip
    torch.save(archive, folder / "claims.pt")
    huge = 1 << 40
    return [
        ("photo.png", png),
        ("photo.ppm", b"P6 60000 60000 255\n" + bytes(1000)),
        ("set.bin", b"\x80\x04\x8e" + struct.pack("<Q", huge)),  # BINBYTES8 of a terabyte
        ("set.bin", b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1)),  # LONG4
        ("set.bin", b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b"."),  # LONG_BINPUT
        ("set.bin", b"(" * 10**6 + b"."),
        ("set.bin", b"\x80\x02" + b"]" + b"(h\0h\0e" * 30 + b"."),
        ("set.bin", pickle.dumps(bytearray(10))),
        *(("set.bin", data) for data in _shared_images()),
        ("model.pt", (folder / "deflated.zip").read_bytes()),
        ("model.pt", (folder / "claims.pt").read_bytes()),
        ("model.safetensors", struct.pack("<Q", huge) + b"{}"),
        ("model.safetensors", _lying_safetensors()),
        ("train.rec", struct.pack("<II", 0xCED7230A, (1 << 29) - 1) + bytes(100)),
        ("recipe.toml", b"x = " + b"[" * 10**5),
        ("recipe.toml", b"x = " + b"{a=" * 10**5),
        ("recipe.toml", b"x = 1" + b"0" * 10**5),
        ("recipe.toml", b"[backbone]\ninput_size = [17777777777712, 112]\n"),
        ("recipe.toml", b"[backbone]\nembedding_dim = 17777777777712\n"),
        ("pairs.txt", b"999999999\t999999999\n"),
    ]


class Call:
    """A pickle of this calls a function when it is loaded."""

    def __init__(self, function, arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _shared_images():
    """Sets of one pair and 10,000 images, all of them made from the same mebibyte of the file."""
    size, count = 1 << 20, 10_000
    array = np.zeros(size, np.uint8)
    function, arguments = array.__reduce_ex__(5)
    shared, text = bytearray(size), ("\0" * size, "latin1")
    arguments = (shared, *arguments[1:])
    return [
        pickle.dumps(([item() for _ in range(count)], [True]), protocol=5)
        for item in (
            lambda: shared,
            lambda: array,
            lambda: Call(function, arguments),
            lambda: Call(codecs.encode, text),
        )
    ]


def _lying_safetensors():
    text = b'{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    return struct.pack("<Q", len(text)) + text


def read_all_bombs(folder):
    """Refuse every bomb, and return the growth of this process's peak memory in bytes."""
    import resource

    everything = bombs(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in everything:
        path = folder / name
        path.write_bytes(data)
        if name == "train.rec":
            (folder / "train.idx").write_text("0\t0\n")
        by_name = {reader.name: reader.read for reader in READERS.values()}
        by_name |= {"photo.ppm": read_image, "train.rec": open_source}
        try:
            by_name[name](path)
        except ValueError as error:
            print(f"{name}: {error}"[:200])
            continue
        raise AssertionError(f"{name} was read: {data[:40]!r}")
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def test_bombs_are_refused_within_the_bound(tmp_path):
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[2:]\n"
        "import test_readers\n"
        "print(test_readers.read_all_bombs(pathlib.Path(sys.argv[1])))"
    )
    here = os.path.dirname(__file__)
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), here, os.path.dirname(here)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert int(ran.stdout.split()[-1]) < MEMORY_BOUND


def test_a_folder_with_everything_that_should_not_be_there(tmp_path):
    root = write_people(tmp_path / "root")
    secret = tmp_path / "secret"
    write_image(secret / "x.png")
    (root / "ann" / "out.png").symlink_to(secret / "x.png")
    (root / "mal").symlink_to(secret)
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "bob" / "pipe.png")
    (root / "bob" / "empty.png").touch()
    odd = os.fsencode(root) + b"/bob/\xff\xfe.png"
    with open(odd, "wb") as file:
        file.write((root / "bob" / "bob_0001.png").read_bytes())
    faces = open_source(root)
    names = [faces.describe(i) for i in range(len(faces))]
    assert not [name for name in names if "out.png" in name or "pipe" in name or "mal" in name]
    unreadable = []
    for i, name in enumerate(names):
        try:
            faces.image(i)
        except UnreadableImage:
            unreadable.append(name)
    assert [os.path.basename(name) for name in unreadable] == ["empty.png"]
    assert any(name.endswith(("\udcff\udcfe.png", r"\udcff\udcfe.png")) for name in names)


@pytest.mark.parametrize(
    "path", ["../secret/x.png", "/etc/passwd", "a/../../secret/x.png", "ann/out.png"]
)
def test_lists_that_lead_out(path, tmp_path):
    root = write_people(tmp_path / "root")
    write_image(tmp_path / "secret" / "x.png")
    (root / "ann" / "out.png").symlink_to(tmp_path / "secret" / "x.png")
    (root / "list.txt").write_text(f"{path} 0\nbob/bob_0001.png 1\n")
    (root / "pairs.txt").write_text(f"{path} bob/bob_0001.png 0 0\n")
    with pytest.raises(ValueError, match=r"list\.txt:1: .* leads out of"):
        open_source(root / "list.txt")
    with pytest.raises(ValueError, match=r"pairs\.txt:1: .* leads out of"):
        read_pairs(root / "pairs.txt")


def test_a_name_that_no_file_can_have(tmp_path):
    root = write_people(tmp_path)
    for text in ("ann/" + "x" * 300 + ".png", "ann/" + "x" * 250 + " 1"):
        (root / "pairs.txt").write_text(f"{text} bob/bob_0001.png 0 0\n1\t1\n")
        with pytest.raises(ValueError, match=r"pairs\.txt"):
            read_pairs(root / "pairs.txt")


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(UnreadableImage, match="not a plain file"):
        read_image(tmp_path / "x.png")


def test_windows_line_ends_and_byte_order_marks(tmp_path):
    root = write_people(tmp_path)
    lines = "ann/ann_0001.png 0\r\nbob/bob_0001.png 1\r\n"
    (root / "list.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    faces = open_source(root / "list.txt")
    assert [faces.image(i).shape for i in range(2)] == [(112, 112, 3)] * 2
    (root / "pairs.txt").write_bytes(
        b"\xef\xbb\xbfann/ann_0001.png ann/ann_0002.png 1 0\r\nann/ann_0001.png bob/bob_0001.png 0 1\r\n"
    )
    assert len(read_pairs(root / "pairs.txt")) == 2


def test_a_compressed_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(1000))
    with pytest.raises(ValueError, match=r"model\.pt is damaged: it is compressed"):
        build_from_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "{a=" * 5000, "x = 1" + "0" * 5000])
def test_recipes_that_no_parser_likes(text, tmp_path):
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.toml"):
        read_recipe(tmp_path / "recipe.toml")
