"""Every reader of files from elsewhere, the valid files it is given, and ways to damage them.

A reader may return or raise ValueError with the name of the file in its message; anything else is a
bug. `fuzz.py` and `hostile/test_readers.py` use the same list.
"""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from face_files import write_people
from lmdb_files import write_lmdb
from PIL import Image

from fusedface.data import open_source, read_pairs, write_bin, write_pack
from fusedface.data.align import read_landmarks
from fusedface.data.check import check
from fusedface.data.gallery import face_files
from fusedface.data.sources.images import UnreadableImage, read_image
from fusedface.models import MarginHead, build_from_checkpoint, create, read_head
from fusedface.models.checkpoints import FORMAT, VERSION
from fusedface.recipes.configuration.own_files import with_init
from fusedface.recipes.configuration.settings import read_recipe, to_toml
from fusedface.recipes.evaluation.onnx_recogniser import OnnxRecogniser
from fusedface.recipes.evaluation.scores import PairScores
from fusedface.recipes.evaluation.threshold_file import (
    model_file,
    read_thresholds,
    write_thresholds,
)
from fusedface.recipes.evaluation.thresholds import set_thresholds
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.training.embedding_cache import EmbeddingCache

INTERESTING = (b"\0", b"\xff", b"\x80", b"\r\n", b"\n", b",", b"\t", b"../", b"/etc/passwd", b"-1",
               b"9" * 400, b"nan", b"1e999", b"[" * 3000, b"{" * 3000, "é".encode(), b"\xed\xa0\x80",
               b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\x7f")  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """What reads a file, and valid files for it."""

    name: str  # of the file in its folder
    valid: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four random damages."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(out))
        length = min(rng.choice((1, 2, 4, 8, 64, 1000)), len(out) - at)
        match rng.randrange(6):
            case 0 if length:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                del out[at:]
            case 2:
                out[at:at] = rng.choice(INTERESTING)
            case 3:
                out[at : at + length] = rng.randbytes(length)
            case 4:
                out[at:at] = out[at : at + length]
            case _:
                del out[at : at + length]
    return bytes(out)


def _images(folder: Path) -> list[bytes]:
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 255, (24, 20, 3), dtype=np.uint8))
    files = []
    for suffix in (".png", ".jpg", ".bmp", ".webp", ".ppm"):
        pixels.save(folder / f"valid{suffix}")
        files.append((folder / f"valid{suffix}").read_bytes())
    return files


def _lists(folder: Path) -> list[bytes]:
    write_people(folder)
    lines = [
        f"{n}/{n}_{k:04d}.png {i}" for i, n in enumerate(("ann", "bob", "cyd")) for k in (1, 2)
    ]
    return ["\n".join(lines).encode(), "\r\n".join(lines).encode()]


def _pair_lists(folder: Path) -> list[bytes]:
    write_people(folder)
    plain = "ann/ann_0001.png ann/ann_0002.png 1 0\nann/ann_0001.png bob/bob_0001.png 0 1\n"
    lfw = "1\t1\nann\t1\t2\nann\t1\tbob\t1\n"
    two = "ann/ann_0001.png 1\nann/ann_0002.png 1\nbob/bob_0001.png 0\ncyd/cyd_0001.png 0\n"
    return [text.encode() for text in (plain, lfw, two)]


def _pair_tables(folder: Path) -> list[bytes]:
    return [_pair_lists(folder)[0].replace(b" ", b",")]


def _bins(folder: Path) -> list[bytes]:
    pairs = folder / "for_bin.txt"
    pairs.write_bytes(_pair_lists(folder)[0])
    write_bin(read_pairs(pairs), folder / "valid.bin")
    return [(folder / "valid.bin").read_bytes()]


def _read_bin(path: Path) -> None:
    pairs = read_pairs(path)
    for i in range(min(len(pairs.images), 4)):
        pairs.images.image(i)


def _packs(folder: Path, suffix: str) -> list[bytes]:
    write_people(folder / "people")
    write_pack(open_source(folder / "people"), folder)
    for name in ("train.rec", "train.idx"):
        (folder / name).rename(folder / f"valid-{name}")
    return [(folder / f"valid-train{suffix}").read_bytes()]


def _read_pack(path: Path) -> None:
    other = {".rec": ".idx", ".idx": ".rec"}[path.suffix]
    shutil.copy(path.with_name(f"valid-train{other}"), path.with_suffix(other))
    for skip_bad in (False, True):
        try:
            source = open_source(path.parent / "train.rec", skip_bad=skip_bad)
            for i in range(len(source)):
                source.image(i)
        except ValueError:
            if skip_bad:
                raise
    check(path.parent / "train.rec")


def _lmdbs(folder: Path) -> list[bytes]:
    """With its images in leaf pages, and with pages of their own."""
    files = []
    for size in (8, 40):
        pixels = np.random.default_rng(0).integers(0, 255, (6, size, size, 3), dtype=np.uint8)
        images = [b"P6 %d %d 255 " % (size, size) + image.tobytes() for image in pixels]
        write_lmdb(folder / f"{size}.mdb", {k: (image, k // 2) for k, image in enumerate(images)})
        files.append((folder / f"{size}.mdb").read_bytes())
    return files


def _read_lmdb(path: Path) -> None:
    for skip_bad in (False, True):
        try:
            source = open_source(path, skip_bad=skip_bad)
            for i in range(len(source)):
                source.image(i)
        except ValueError:
            if skip_bad:
                raise


def _landmarks(folder: Path) -> list[bytes]:
    points = ",".join(str(10 * i) for i in range(10))
    return [
        f"path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\nann/1.png,{points}\nbob/1.jpg,{points}\n".encode()
    ]


def _recipes(folder: Path) -> list[bytes]:
    return [to_toml(get_recipe("mobilefacenet-curricular")).encode()]


def _checkpoints(folder: Path) -> list[bytes]:
    model = create("mobilefacenet", embedding_dim=8, width=0.125, input_size=(32, 32))
    archive = {
        "format": FORMAT, "version": VERSION, "backbone": model.config, "model": model.state_dict(),
        "preprocessing": model.preprocessing.as_dict(), "step": 3,
    }  # fmt: skip
    torch.save(archive, folder / "valid.pt")
    torch.save(archive, folder / "old.pt", _use_new_zipfile_serialization=False)
    return [(folder / name).read_bytes() for name in ("valid.pt", "old.pt")]


def _heads(folder: Path) -> list[bytes]:
    official = {"kernel": torch.ones(4, 3), "t": torch.zeros(1)}
    torch.save(official, folder / "valid.pth")
    torch.save({"EPOCH": 1, "HEAD": official}, folder / "training.pth")
    return [(folder / name).read_bytes() for name in ("valid.pth", "training.pth")]


def _starting_points(folder: Path) -> list[bytes]:
    _checkpoints(folder)
    archive = torch.load(folder / "valid.pt", weights_only=True)
    archive |= {
        "classes": ["ann", "bob"],
        "head": MarginHead(8, 2).state_dict(),
        "recipe": {"data": {}},
    }
    torch.save(archive, folder / "people.pt")
    torch.save(archive, folder / "people-old.pt", _use_new_zipfile_serialization=False)
    return [(folder / name).read_bytes() for name in ("people.pt", "people-old.pt")]


def _begin(path: Path) -> None:
    with_init(get_recipe("mobilefacenet-finetune"), path)


def _safetensors(folder: Path) -> list[bytes]:
    from safetensors.torch import save

    return [save({"weight": torch.zeros(3, 2)}, {"fusedface": "{}"})]


def _threshold_files(folder: Path) -> list[bytes]:
    rng = np.random.default_rng(0)
    same = np.arange(600) < 200
    scores = PairScores(np.arange(600), np.arange(600), same, rng.normal(0.5 * same, 0.1))
    (folder / "model.pt").write_bytes(b"weights")
    found = set_thresholds(scores, scores, 600, None)
    write_thresholds(folder / "valid.json", model_file(folder / "model.pt"), {"lfw": found})
    return [(folder / "valid.json").read_bytes()]


def onnx_network(**metadata: str) -> bytes:
    """A face recogniser of two nodes: the mean of each channel."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


def _onnx_files(folder: Path) -> list[bytes]:
    return [onnx_network(), onnx_network(preprocessing='{"flip": "concat"}')]


def _read_onnx(path: Path) -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    Image.fromarray(image).save(path.with_name("face.png"))
    recogniser = OnnxRecogniser(path)
    recogniser.embed(face_files([path.with_name("face.png")]))


def _caches(folder: Path) -> list[bytes]:
    cache = EmbeddingCache(folder / "valid.embeddings", "a teacher", 3)
    cache.add(CACHED, np.arange(9, dtype=np.float32).reshape(3, 3))
    return [cache.path.read_bytes()]


def _read_cache(path: Path) -> None:
    cache = EmbeddingCache(path, "a teacher", 3)
    for number, key in enumerate(CACHED):
        found = cache.get(key)
        assert found is None or list(found) == [3 * number, 3 * number + 1, 3 * number + 2]


CACHED = [bytes([number]) * 16 for number in range(3)]

READERS = {
    "image": Reader("photo.png", _images, read_image),
    "list": Reader("list.txt", _lists, open_source),
    "pair list": Reader("pairs.txt", _pair_lists, read_pairs),
    "pair list, csv": Reader("pairs.csv", _pair_tables, read_pairs),
    "bin": Reader("set.bin", _bins, _read_bin),
    "pack": Reader("train.rec", lambda folder: _packs(folder, ".rec"), _read_pack),
    "pack's index": Reader("train.idx", lambda folder: _packs(folder, ".idx"), _read_pack),
    "lmdb": Reader("set.lmdb", _lmdbs, _read_lmdb),
    "landmarks": Reader("points.csv", _landmarks, lambda path: read_landmarks(path, path.parent)),
    "recipe": Reader("recipe.toml", _recipes, read_recipe),
    "checkpoint": Reader("model.pt", _checkpoints, build_from_checkpoint),
    "head": Reader("head.pth", _heads, read_head),
    "thresholds": Reader("thresholds.json", _threshold_files, read_thresholds),
    "ONNX": Reader("model.onnx", _onnx_files, _read_onnx),
    "starting point": Reader("start.pt", _starting_points, _begin),
    "teacher's cache": Reader("t.embeddings", _caches, _read_cache),
    "safetensors": Reader("model.safetensors", _safetensors, build_from_checkpoint),
}  # fmt: skip


def outcome(reader: Reader, path: Path, data: bytes) -> str:
    """Read `data` as the file `path`: "read" or "refused"; whatever else happens is raised."""
    path.write_bytes(data)
    try:
        reader.read(path)
    except UnreadableImage:
        return "refused"
    except ValueError as error:
        if path.stem not in str(error) and str(path.parent) not in str(error):
            raise AssertionError(f"the message does not name {path.name}: {error}") from error
        return "refused"
    return "read"
