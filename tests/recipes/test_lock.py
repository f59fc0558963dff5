"""One process in a run directory; folders of their own for runs that begin at once."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console
from tiny_run import tiny_recipe, write_faces

from fusedface.recipes.configuration.settings import override
from fusedface.recipes.run import run_recipe
from fusedface.recipes.run_directory.directory import _new_folder, run_folder
from fusedface.recipes.run_directory.lock import LOCK, FolderLock

pytestmark = pytest.mark.usefixtures("short_networks")

QUIET = Console(quiet=True)
needs_posix = pytest.mark.skipif(os.name == "nt", reason="os.fork and POSIX locks")


def hold_in_a_child(folder):
    """Fork a process that locks a folder and waits; its number, once it has the lock."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        FolderLock(folder)
        os.write(writer, b".")
        signal.pause()
        os._exit(0)
    assert os.read(reader, 1) == b"."
    return child


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@needs_posix
def test_a_second_run_in_a_folder_is_refused_and_a_stale_lock_taken_over(tmp_path):
    faces, out = write_faces(tmp_path), tmp_path / "run"
    recipe = override(tiny_recipe(faces), ["schedule.steps=3"])
    child = hold_in_a_child(out)
    try:
        for resume in (False, True):
            with pytest.raises(ValueError, match=rf"{out} is in use by process {child} on .*since"):
                run_recipe(recipe, out, resume=resume, device="cpu", console=QUIET)
        assert [path.name for path in out.iterdir()] == [LOCK]
    finally:
        kill(child)
    assert json.loads((out / LOCK).read_text("utf-8"))["process"] == child  # left behind
    assert run_recipe(recipe, out, device="cpu", console=QUIET).finished
    assert not (out / LOCK).exists()


@needs_posix
def test_a_folder_is_locked_within_a_process_too(tmp_path):
    with FolderLock(tmp_path):
        with pytest.raises(ValueError, match=rf"in use by process {os.getpid()}, this one"):
            FolderLock(tmp_path / ".")
        with FolderLock(tmp_path / "inner"):
            pass
    with FolderLock(tmp_path):
        pass


@needs_posix
def test_what_was_done_while_waiting_is_seen(tmp_path, monkeypatch):
    """Another run begins and ends in the folder while this one reads its images."""
    faces, out = write_faces(tmp_path), tmp_path / "run"
    recipe = override(tiny_recipe(faces), ["schedule.steps=3"])
    from fusedface.recipes import run

    original = run.open_faces

    def meanwhile(*arguments):
        monkeypatch.setattr(run, "open_faces", original)
        run_recipe(recipe, out, device="cpu", console=QUIET)
        return original(*arguments)

    monkeypatch.setattr(run, "open_faces", meanwhile)
    with pytest.raises(ValueError, match="is not empty"):
        run_recipe(override(recipe, ["train.seed=9"]), out, device="cpu", console=QUIET)
    assert json.loads((out / "summary.json").read_text("utf-8"))["seed"] == 5


def test_folders_that_are_chosen_at_once_are_different(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: _new_folder(tmp_path, "arcface"), range(24)))
    expected = {"arcface", *(f"arcface-{number}" for number in range(2, 25))}
    assert {folder.name for folder in folders} == expected


def test_a_folder_to_which_nothing_was_written_does_not_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fail():
        with run_folder(None, "arcface") as folder:
            assert folder.is_dir()
            raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        fail()
    assert not list((tmp_path / "runs").iterdir())
    with run_folder(None, "arcface") as folder:
        (folder / "recipe.toml").write_text("", encoding="utf-8")
    assert (tmp_path / "runs" / "arcface" / "recipe.toml").exists()
