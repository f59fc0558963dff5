"""Checkpoints are whole or absent, and the newest whole one is found."""

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fusedface.models import archives, build_from_checkpoint, create
from fusedface.models.shard_files import SHARDS
from fusedface.recipes.run_directory.files import atomic_file
from fusedface.recipes.training.checkpoint import Checkpoint
from fusedface.recipes.training.checkpoint_folder import BEST, CheckpointFolder
from fusedface.recipes.training.seeding import rng_state, seed_everything, set_rng_state

CPU = torch.device("cpu")


def content(value=0.0):
    return {"model": {"w": torch.full((1000,), value)}, "progress": {"note": "x"}}


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints", keep=3)


def names(folder):
    return sorted(path.name for path in folder.folder.iterdir())


def test_keeps_the_newest_and_the_best(folder):
    for step in (9, 10, 99, 100):
        folder.save(step, content(step), best=step == 9)
    assert names(folder) == [BEST, "step-00000010.pt", "step-00000099.pt", "step-00000100.pt"]
    best = torch.load(folder.folder / BEST, weights_only=True)
    assert best["step"] == 9
    assert best["model"]["w"][0] == 9.0
    newest, problems = folder.newest()
    assert newest.content["step"] == 100
    assert problems == []


def test_a_new_best_replaces_the_old_one(folder):
    folder.save(1, content(1), best=True)
    folder.save(2, content(2), best=True)
    folder.save(2, content(2), best=True)  # the same step again, as a resumed run may
    assert torch.load(folder.folder / BEST, weights_only=True)["step"] == 2
    assert names(folder) == [BEST, "step-00000001.pt", "step-00000002.pt"]


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a checkpoint"),
        flip_a_byte,
    ],
    ids=["truncated", "empty", "garbage", "flipped"],
)
def test_a_damaged_newest_is_passed_over_and_named(folder, damage):
    for step in (1, 2):
        folder.save(step, content(step), best=False)
    damage(folder.folder / "step-00000002.pt")
    newest, problems = folder.newest()
    assert newest.content["step"] == 1
    assert len(problems) == 1
    assert "step-00000002.pt" in problems[0]
    assert folder.set_aside_after(1) == ["step-00000002.pt.damaged"]
    assert names(folder) == ["step-00000001.pt", "step-00000002.pt.damaged"]


def test_class_centres_of_a_damaged_checkpoint_are_kept_with_it(folder):
    for step, best in ((1, False), (2, True), (3, False)):
        name = f"step-{step:08d}"
        (folder.folder / f"{name}.centres").mkdir(parents=True)
        folder.save(step, content() | {SHARDS: {"folder": f"{name}.centres"}}, best=best)
    best = (folder.folder / BEST).read_bytes()
    (folder.folder / BEST).unlink()  # a copy, as where the file system has no links
    (folder.folder / BEST).write_bytes(best)
    for step in (2, 3):
        path = folder.folder / f"step-{step:08d}.pt"
        path.write_bytes(path.read_bytes()[:-200])
    folder.set_aside_after(1)
    assert names(folder) == [
        BEST, "step-00000001.centres", "step-00000001.pt", "step-00000002.centres",
        "step-00000002.pt.damaged", "step-00000003.centres.damaged", "step-00000003.pt.damaged",
    ]  # fmt: skip


def test_a_save_next_to_damaged_files_of_later_steps_stays(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints", keep=1)
    folder.save(2, content(2), best=False)
    (folder.folder / "step-00000003.pt").write_bytes(b"damaged")
    assert folder.save(2, content(2), best=False).exists()


def out_of_memory(num_bytes):
    return RuntimeError(
        f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {num_bytes} bytes"
    )


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError(), out_of_memory(64)],
    ids=repr,
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_passed_over(folder, monkeypatch, error):
    for step in (1, 2):
        folder.save(step, content(step), best=False)

    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(archives.torch, "load", fail)
    with pytest.raises(
        OSError, match=r"cannot read .*step-00000002\.pt: (Input/output|too little)"
    ):
        folder.newest()


def test_a_size_beyond_that_of_the_file_is_damage(folder, monkeypatch):
    folder.save(1, content(), best=False)

    def fail(*_args, **_options):
        raise out_of_memory(2**50)

    monkeypatch.setattr(archives.torch, "load", fail)
    assert folder.newest()[0] is None


def test_no_checkpoint(folder):
    assert folder.newest() == (None, [])


def test_what_a_killed_process_was_writing_is_removed(folder):
    folder.save(1, content(), best=False)
    (folder.folder / "step-00000002.pt.partial").write_bytes(b"PK\x03\x04 half")
    again = CheckpointFolder(folder.folder, keep=3)
    again.remove_partial()
    assert again.newest()[0].content["step"] == 1
    assert names(again) == ["step-00000001.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with atomic_file(path) as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def draws():
    """A few numbers of each generator; the odd normal leaves NumPy's cached one behind."""
    legacy = np.random  # the global generator is the one to restore
    return random.random(), legacy.rand(), legacy.randn(), torch.rand(3).tolist()


def test_every_generator_is_restored_through_a_file(folder):
    seed_everything(3)
    draws()
    folder.save(1, {"rng": rng_state(CPU)}, best=False)
    expected = draws()
    seed_everything(4)
    set_rng_state(folder.newest()[0].content["rng"], CPU, is_shared=False)
    assert draws() == expected


@pytest.fixture
def gpus(monkeypatch):
    """The states of the generators of four GPUs, of which only the number of draws is kept."""
    drawn = torch.zeros(4, 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: drawn[device.index].clone())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: drawn[device.index].copy_(state)
    )
    return drawn


def gpu(index):
    return torch.device("cuda", index)


def test_each_process_gets_the_generator_on_its_own_gpu(gpus):
    """The first process saves; it has drawn on its own GPU only, as the other one has on the other."""
    gpus[0] = 7.0
    saved = rng_state(gpu(0))
    gpus.zero_()
    for rank in (
        0,
        1,
    ):  # each in a process of its own, of a machine with another number of GPUs too
        set_rng_state(saved, gpu(rank), is_shared=True)
    assert gpus[:, 0].tolist() == [7.0, 7.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("device", "is_shared", "drawn"), [(1, True, 7.0), (1, False, 5.0), (3, False, 7.0)]
)
def test_generators_of_all_gpus_as_earlier_versions_saved_them(gpus, device, is_shared, drawn):
    saved = rng_state(CPU) | {"cuda": [torch.tensor([7.0]), torch.tensor([5.0])]}
    set_rng_state(saved, gpu(device), is_shared=is_shared)
    assert gpus[device] == drawn


def test_a_run_that_changes_from_a_cpu_to_a_gpu_or_back(gpus):
    set_rng_state(rng_state(CPU), gpu(0), is_shared=False)
    gpus[0] = 7.0
    set_rng_state(rng_state(gpu(0)), CPU, is_shared=False)


def scaler_of(state):
    return Checkpoint(Path("step.pt"), {"scaler": state})


def test_a_gradient_scaler_is_put_where_it_was():
    saved = torch.amp.GradScaler("cpu", init_scale=64.0).state_dict()
    scaler = torch.amp.GradScaler("cpu")
    scaler.load_state_dict(scaler_of(saved).scaler(scaler))
    assert scaler.get_scale() == 64.0
    assert scaler_of({}).scaler(scaler) is None  # the run had none before
    assert scaler_of(saved).scaler(torch.amp.GradScaler("cpu", enabled=False)) is None


@pytest.mark.parametrize("change", [{"scale": "64"}, {"scale": True}, {"mood": 1.0}])
def test_a_state_of_no_scaler_is_refused(change):
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(
        ValueError, match=r"step\.pt: its scaler holds no state of a gradient scaler"
    ):
        scaler_of(scaler.state_dict() | change).scaler(scaler)
    lacking = dict(list(scaler.state_dict().items())[1:])
    with pytest.raises(ValueError, match="its scaler holds no state"):
        scaler_of(lacking).scaler(scaler)


def test_models_reads_what_is_written(folder):
    model = create("mobilefacenet", embedding_dim=16, input_size=(32, 48), width=0.25)
    model = model.to(memory_format=torch.channels_last)
    path = folder.save(
        5,
        {
            "backbone": model.config,
            "preprocessing": model.preprocessing.as_dict(),
            "model": model.state_dict(),
        },
        best=False,
    )
    again = build_from_checkpoint(path)
    assert again.config == model.config
    assert again.preprocessing == model.preprocessing
    for ours, theirs in zip(again.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
