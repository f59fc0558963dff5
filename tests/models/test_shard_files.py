"""Class centres in files next to a checkpoint: what they hold, and what is refused.

One process writes them here; tests/shard_cases.py has several.
"""

import copy
import os
import pickle

import pytest
import torch
import torch.distributed as dist

from fusedface.models import StartingPoint, build_from_checkpoint, create, read_head
from fusedface.models.archives import FORMAT, VERSION
from fusedface.models.class_shard import ClassShard
from fusedface.models.shard_files import SHARDS, ShardFiles, digest_of
from fusedface.models.shard_reader import read_rows
from fusedface.models.shard_writer import write_rows

CLASSES, DIM = 7, 16
FILE = "__0_0.distcp"


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=store.as_uri(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.fixture
def saved(group, tmp_path):
    """A checkpoint and its class centres, as a run writes them."""
    folder = tmp_path / "step-00000003.centres"
    folder.mkdir()
    rows = {
        "weight": torch.randn(CLASSES, DIM),
        "momentum_buffer": torch.randn(CLASSES, DIM).bfloat16(),
    }
    model = create("mobilefacenet", embedding_dim=DIM, input_size=(32, 32), width=0.25)
    content = {
        "format": FORMAT, "version": VERSION, "step": 3, "backbone": model.config,
        "preprocessing": model.preprocessing.as_dict(), "model": model.state_dict(),
        "head": {"t": torch.tensor(0.5)}, "classes": [f"person {j}" for j in range(CLASSES)],
        SHARDS: write_rows(rows, ClassShard("world", CLASSES), folder, group),
    }  # fmt: skip
    path = tmp_path / "step-00000003.pt"
    torch.save(content, path)
    return path, content, rows


def test_any_rows_are_read_to_the_bit(saved):
    path, content, rows = saved
    files = ShardFiles.of(path, content)
    files.check()
    for first in range(CLASSES):
        for end in range(first, CLASSES + 1):
            found = read_rows(files, range(first, end))
            for name, value in rows.items():
                assert found[name].dtype == value.dtype
                assert torch.equal(found[name], value[first:end])


def test_who_asks_for_the_head_gets_it(saved):
    path, _, rows = saved
    head = read_head(path)
    assert torch.equal(head["weight"], rows["weight"])
    assert head["t"] == 0.5
    classes = StartingPoint(path).classes
    for which in (range(CLASSES), [5, 0, 3], []):
        assert torch.equal(classes.centres_of(which), rows["weight"][list(which)])
    for outside in (-1, CLASSES):
        with pytest.raises(IndexError, match=f"class {outside} is not among the {CLASSES}"):
            classes.centres_of([0, outside])


def test_who_needs_the_network_needs_no_class_centres(saved):
    path, content, _ = saved
    folder = path.parent / content[SHARDS]["folder"]
    (folder / FILE).unlink()
    model = build_from_checkpoint(path)
    start = StartingPoint(path)
    assert not start.load(model)
    for read in (lambda: read_head(path), lambda: start.classes.centres_of([0])):
        with pytest.raises(ValueError, match=FILE) as error:
            read()
        assert str(path) in str(error.value)


@pytest.mark.parametrize("damage", ["a bit", "the end", "another run"])
def test_a_damaged_file_is_named(saved, damage):
    path, content, _ = saved
    file = path.parent / content[SHARDS]["folder"] / FILE
    data = bytearray(file.read_bytes())
    if damage == "a bit":
        data[len(data) // 2] ^= 1
    elif damage == "the end":
        del data[-1:]
    else:
        data = bytearray(data.replace(b"data.pkl", b"data.pkm"))
    file.write_bytes(data)
    with pytest.raises(ValueError, match=FILE) as error:
        read_head(path)
    assert str(path) in str(error.value)


class Runs:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_the_pickle_of_torch_is_neither_written_nor_read(saved, tmp_path):
    path, content, rows = saved
    folder = path.parent / content[SHARDS]["folder"]
    assert os.listdir(folder) == [FILE]
    (folder / ".metadata").write_bytes(pickle.dumps(Runs(str(tmp_path / "ran"))))
    assert torch.equal(read_head(path)["weight"], rows["weight"])
    assert not (tmp_path / "ran").exists()


def test_objects_in_a_file_are_refused_unread(saved, tmp_path):
    """An attacker who writes the file writes its digest too."""
    path, content, _ = saved
    file = path.parent / content[SHARDS]["folder"] / FILE
    torch.save([Runs(str(tmp_path / "ran"))], file)
    length = file.stat().st_size
    content[SHARDS]["files"][FILE] = digest_of(file)
    tensors = content[SHARDS]["tensors"]
    content[SHARDS]["tensors"] = {
        "weight": tensors["weight"] | {"parts": [[0, CLASSES, FILE, 0, length]]}
    }
    torch.save(content, path)
    with pytest.raises(ValueError, match="damaged class centres"):
        read_head(path)
    assert not (tmp_path / "ran").exists()


def part(**changes):
    """A change of the only part of "weight"."""
    names = ("first", "rows", "file", "offset", "length")

    def change(entry):
        parts = entry["tensors"]["weight"]["parts"]
        values = dict(zip(names, parts[0], strict=True)) | changes
        parts[0] = list(values.values())

    return change


def put(*keys):
    *keys, value = keys

    def change(entry):
        for key in keys[:-1]:
            entry = entry[key]
        entry[keys[-1]] = value

    return change


def momentum(entry):
    """Where the file holds the momentum, after the class centres: its offset and length."""
    return entry["tensors"]["momentum_buffer"]["parts"][0][3:]


HOSTILE = {
    "a folder elsewhere": put("folder", "../other.centres"),
    "an absolute folder": put("folder", "/etc"),
    "no name": put("folder", 3),
    "a file elsewhere": put("files", {"../__0_0.distcp": "0" * 64}),
    "no digest": put("files", FILE, "0" * 63),
    "no files": put("files", {}),
    "a list": put("files", [FILE]),
    "no tensors": put("tensors", {}),
    "no weight": lambda entry: entry["tensors"].pop("weight"),
    "a number for a name": put("tensors", 3, {"dtype": "float32", "size": [0, 1], "parts": []}),
    "another dtype": put("tensors", "weight", "dtype", "int64"),
    "three sizes": put("tensors", "weight", "size", [CLASSES, DIM, 1]),
    "too many classes": put("tensors", "weight", "size", [2**40, DIM]),
    "no dimensions": put("tensors", "weight", "size", [CLASSES, 0]),
    "a float": put("tensors", "weight", "size", [float(CLASSES), DIM]),
    "a bool": part(first=False),
    "not from the start": part(first=1),
    "negative": part(offset=-1),
    "too few bytes": part(length=CLASSES * DIM * 4 - 1),
    "rows that are missing": part(rows=CLASSES - 1),
    "no part": put("tensors", "weight", "parts", []),
    "rows twice": lambda entry: entry["tensors"]["weight"]["parts"].append([0, 7, FILE, 0, 4000]),
    "an empty part": lambda entry: entry["tensors"]["weight"]["parts"].append([7, 0, FILE, 0, 0]),
    "a string of parts": put("tensors", "weight", "parts", "12345"),
    "a whole in place of a table": lambda entry: entry.update(tensors=3),
    "beyond the end": part(offset=10**6),
    "some bytes twice": lambda entry: part(length=sum(momentum(entry)))(entry),
    "more than there is": part(length=2**50),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_descriptions_that_are_refused(saved, kind):
    path, content, _ = saved
    entry = copy.deepcopy(content[SHARDS])
    HOSTILE[kind](entry)
    assert repr(entry) != repr(content[SHARDS])
    torch.save(content | {SHARDS: entry}, path)
    for read in (read_head, lambda path: StartingPoint(path).classes.centres_of([0])):
        with pytest.raises(ValueError, match=path.name):
            read(path)


@pytest.mark.parametrize("entry", [None, 3, [], {}, "folder"])
def test_entries_of_another_kind(saved, entry):
    path, content, _ = saved
    torch.save(content | {SHARDS: entry}, path)
    with pytest.raises(ValueError, match=path.name):
        read_head(path)
