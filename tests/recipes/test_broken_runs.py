"""A full disk, a dead worker, other data under a run: a message, and nothing is lost."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_run import tiny_recipe, write_faces

from fusedface.data import dataset
from fusedface.recipes.engine import files
from fusedface.recipes.engine.run import run_recipe
from fusedface.recipes.settings import override, to_toml

QUIET = Console(quiet=True)
needs_posix = pytest.mark.skipif(os.name == "nt", reason="resource limits and SIGKILL are POSIX")


@pytest.fixture
def faces(tmp_path):
    return write_faces(tmp_path)


def newest(out):
    return torch.load(max((out / "checkpoints").glob("step-*.pt")), weights_only=True)


def test_a_full_disk(faces, tmp_path, monkeypatch):
    """The disk is full when step 8 is saved; with room again the run ends as one that never stopped."""
    settings = ["train.checkpoint_every=4", "evaluation.every=0"]
    recipe = override(tiny_recipe(faces), settings)
    original = files.os.fsync

    def full(descriptor):
        if "step-00000008" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to tell which file is written")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*kept up to step 4.*--resume"):
        run_recipe(recipe, tmp_path / "run", device="cpu", console=QUIET)
    monkeypatch.undo()
    assert [p.name for p in sorted((tmp_path / "run/checkpoints").glob("step*"))] == [
        "step-00000004.pt"
    ]
    run_recipe(recipe, tmp_path / "run", resume=True, device="cpu", console=QUIET)
    run_recipe(recipe, tmp_path / "whole", device="cpu", console=QUIET)
    ours, theirs = newest(tmp_path / "run")["model"], newest(tmp_path / "whole")["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@needs_posix
def test_a_file_size_limit_in_the_middle_of_a_checkpoint(faces, tmp_path):
    """The write itself fails, inside torch.save; the command line says so in one message."""
    (tmp_path / "r.toml").write_text(to_toml(tiny_recipe(faces)), encoding="utf-8")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from fusedface.cli import main\n"
        f"sys.argv = ['cli.py', 'recipe', 'run', {str(tmp_path / 'r.toml')!r}, '--device', 'cpu', '--out', "
        f"{str(tmp_path / 'run')!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@needs_posix
def test_a_worker_that_is_killed(faces, tmp_path, monkeypatch):
    """By the system for its memory, say; what was trained is saved and goes on to the same weights."""
    recipe = override(tiny_recipe(faces), ["data.num_workers=1", "evaluation.every=0"])
    original = dataset.FaceDataset.batch
    main_process = os.getpid()

    def killed(self, indices):
        if os.getpid() != main_process and self.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, indices)

    monkeypatch.setattr(dataset.FaceDataset, "batch", killed)
    with pytest.raises(OSError, match=r"reads images has died.*kept up to step 4.*--resume"):
        run_recipe(recipe, tmp_path / "run", device="cpu", console=QUIET)
    monkeypatch.undo()
    run_recipe(recipe, tmp_path / "run", resume=True, device="cpu", console=QUIET)
    run_recipe(recipe, tmp_path / "whole", device="cpu", console=QUIET)
    ours, theirs = newest(tmp_path / "run")["model"], newest(tmp_path / "whole")["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("change", ["fewer", "other"])
def test_data_that_changed_since_the_run_was_begun(faces, tmp_path, change):
    recipe = override(tiny_recipe(faces), ["schedule.steps=4", "train.checkpoint_every=4"])
    longer = tmp_path / "run" / "summary.json"
    run_recipe(recipe, tmp_path / "run", device="cpu", console=QUIET)
    longer.unlink()  # as if it had been killed after its last checkpoint
    person = min((faces / "train").iterdir())
    if change == "fewer":
        next(person.iterdir()).unlink()
        said = "36 images of 6 people then, 35 images of 6 people now"
    else:
        person.rename(person.with_name("somebody"))
        said = "36 images of 6 people, but other ones"
    with pytest.raises(ValueError, match=said):
        run_recipe(recipe, tmp_path / "run", resume=True, device="cpu", console=QUIET)


def test_images_that_vanish_under_a_run_are_left_out_by_name(faces, tmp_path, monkeypatch):
    recipe = tiny_recipe(faces)
    vanishing = min((faces / "train").rglob("*.png"))
    original = dataset.FaceDataset.set_epoch

    def remove(self, epoch):
        if epoch == 1:
            vanishing.unlink()
        original(self, epoch)

    monkeypatch.setattr(dataset.FaceDataset, "set_epoch", remove)
    summary = run_recipe(recipe, tmp_path / "run", device="cpu", console=QUIET)
    assert summary.finished
    assert summary.unreadable_images == 1
