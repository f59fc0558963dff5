"""A full disk, a dead worker, other data under a run: a message, and nothing is lost."""

import errno
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_run import tiny_recipe, write_faces

from fusedface.data import dataset
from fusedface.models import archives
from fusedface.recipes.configuration.settings import override, to_toml
from fusedface.recipes.host import program
from fusedface.recipes.run import run_recipe
from fusedface.recipes.run_directory import files
from fusedface.recipes.training import learner, signals, trainer
from fusedface.recipes.training.diagnose import NonFiniteTrainingError
from fusedface.recipes.training.reading import LostImagesError

pytestmark = pytest.mark.usefixtures("short_networks")

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


def signalled_in_step(monkeypatch, step, number, *, main, worker, times=1):
    """In the middle of a step another process sends a signal: to the run, to its workers, or both."""
    original = trainer.Trainer._train_step

    def train_step(self, batch):
        if self.progress.step == step:
            processes = [os.getpid()] * main
            processes += [child.pid for child in multiprocessing.active_children()] * worker
            code = (
                "import os, sys, time\n"
                f"for _ in range({times}):\n"
                "    [os.kill(int(process), int(sys.argv[1])) for process in sys.argv[2:]]\n"
                "    time.sleep(0.05)"
            )
            subprocess.run(
                [sys.executable, "-c", code, str(number), *map(str, processes)], check=True
            )
            time.sleep(0.3)
        original(self, batch)

    monkeypatch.setattr(trainer.Trainer, "_train_step", train_step)


@needs_posix
@pytest.mark.parametrize(("workers", "times"), [(1, 1), (0, 2)])
def test_sigterm_to_the_whole_group(faces, tmp_path, monkeypatch, workers, times):
    """As torchrun and many job systems send it, also twice; the step in progress is made and saved."""
    recipe = override(tiny_recipe(faces), [f"data.num_workers={workers}", "evaluation.every=0"])
    signalled_in_step(monkeypatch, 4, signal.SIGTERM, main=True, worker=True, times=times)
    before = signal.getsignal(signal.SIGTERM)
    try:
        summary = run_recipe(recipe, tmp_path / "run", device="cpu", console=QUIET)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (summary.verdict, summary.steps) == ("interrupted", 5)
    assert newest(tmp_path / "run")["step"] == 5


@needs_posix
def test_a_worker_that_is_killed_in_the_middle_of_a_step(faces, tmp_path, monkeypatch):
    """The step is made and saved; torch's error does not break into it."""
    recipe = override(tiny_recipe(faces), ["data.num_workers=1", "evaluation.every=0"])
    signalled_in_step(monkeypatch, 4, signal.SIGKILL, main=False, worker=True)
    with pytest.raises(OSError, match=r"reads images has died.*kept up to step 5.*--resume"):
        run_recipe(recipe, tmp_path / "run", device="cpu", console=QUIET)
    assert newest(tmp_path / "run")["step"] == 5


@needs_posix
def test_a_later_signal_has_its_usual_effect(monkeypatch):
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with signals.StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert (stop.signal_name, told) == ("SIGTERM", [])
            monkeypatch.setattr(signals, "REPEAT_SECONDS", -1.0)
            signal.raise_signal(signal.SIGTERM)
            assert told == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


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


SIZES = (0, 400, 1_500, 3_000, 20_000, 75_000, 150_000, 300_000)  # a checkpoint has 364,000


@needs_posix
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_room_at_any_size_is_one_message(faces, tmp_path, monkeypatch, size):
    """Files of the run may grow to so many bytes: recipe, metrics, events or a checkpoint fail, each in
    its own way, torch.save in several."""
    import resource

    recipe, out = override(tiny_recipe(faces), ["evaluation.every=0"]), tmp_path / "a run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            run_recipe(recipe, out, device="cpu", console=QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(error.value)
    if (out / "recipe.toml").exists():
        words = shlex.split(message.partition("go on with: ")[2])
        arguments = words[words.index("recipe") :]
        assert arguments == ["recipe", "run", str(out / "recipe.toml"), "--out", str(out),
                             "--resume", "--device", "cpu"]  # fmt: skip
    else:
        assert "run the same command again" in message
    assert len(message.splitlines()) == 1
    assert not list(out.rglob("*.partial"))
    assert run_recipe(recipe, out, resume=True, device="cpu", console=QUIET).finished


def test_checkpoints_that_cannot_be_read_now(faces, tmp_path, monkeypatch):
    """A disk or a network that fails for a while: the resumption stops, and takes nothing away."""
    recipe, out = (
        override(tiny_recipe(faces), ["schedule.steps=6", "evaluation.every=0"]),
        tmp_path / "run",
    )
    run_recipe(recipe, out, device="cpu", console=QUIET)
    (out / "summary.json").unlink()  # as if it had been killed after its last checkpoint
    before = {path.name: path.stat().st_mtime_ns for path in (out / "checkpoints").iterdir()}

    def fail(*_args, **_options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(archives.torch, "load", fail)
        with pytest.raises(
            OSError, match=r"cannot read .*06\.pt: Input.*kept up to step 6.*--resume"
        ):
            run_recipe(recipe, out, resume=True, device="cpu", console=QUIET)
    assert before == {
        path.name: path.stat().st_mtime_ns for path in (out / "checkpoints").iterdir()
    }
    assert run_recipe(recipe, out, resume=True, device="cpu", console=QUIET).finished


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_all_lost(faces, tmp_path, monkeypatch, workers):
    """What was trained is saved, the message is a sentence, and with the images back it goes on."""
    settings = [f"data.num_workers={workers}", "evaluation.every=0"]
    recipe, out, original = (
        override(tiny_recipe(faces), settings),
        tmp_path / "run",
        (dataset.FaceDataset.set_epoch),
    )

    def lose(self, epoch):
        if epoch == 1:
            (faces / "train").rename(faces / "lost")
        original(self, epoch)

    monkeypatch.setattr(dataset.FaceDataset, "set_epoch", lose)
    with pytest.raises(
        OSError, match=r"^none of the 36 images can be read; .*up to step 4;.*--resume"
    ) as e:
        run_recipe(recipe, out, device="cpu", console=QUIET)
    assert len(str(e.value).splitlines()) == 1
    monkeypatch.setattr(dataset.FaceDataset, "set_epoch", original)
    (faces / "lost").rename(faces / "train")
    assert run_recipe(recipe, out, resume=True, device="cpu", console=QUIET).finished


def test_images_lost_after_a_step_that_was_not_finite(faces, tmp_path, monkeypatch):
    """A GPU tells of the step only when the state is to be saved."""

    def lose(self, epoch):
        if epoch == 1:
            monkeypatch.setattr(learner.Learner, "check_finite", not_finite)
            raise LostImagesError("all lost")

    def not_finite(self):
        raise NonFiniteTrainingError(4, "not finite at step 4")

    monkeypatch.setattr(dataset.FaceDataset, "set_epoch", lose)
    recipe = override(tiny_recipe(faces), ["evaluation.every=0"])
    summary = run_recipe(recipe, tmp_path / "run", device="cpu", console=QUIET)
    assert (summary.verdict, summary.verdict_step) == ("non_finite", 4)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"),
    ],
    ids=repr,
)
def test_too_little_memory_is_one_message(faces, tmp_path, monkeypatch, error):
    original = trainer.Trainer._train_step

    def train_step(self, batch):
        if self.progress.step == 4:
            raise error
        original(self, batch)

    monkeypatch.setattr(trainer.Trainer, "_train_step", train_step)
    said = r"^too little memory: lower optim\.batch_size .*kept up to step 3; .*--resume"
    with pytest.raises(OSError, match=said):
        run_recipe(tiny_recipe(faces), tmp_path / "run", device="cpu", console=QUIET)


def test_faces_to_verify_that_are_lost(faces, tmp_path, monkeypatch):
    """The run goes on before the evaluation that failed, not after it."""
    original = trainer.Trainer._train_step

    def lose(self, batch):
        if self.progress.step == 4 and (faces / "test").exists():
            (faces / "test").rename(faces / "lost")
        original(self, batch)

    monkeypatch.setattr(trainer.Trainer, "_train_step", lose)
    with pytest.raises(
        OSError, match=r"to verify can no longer be read: .*up to step 3;.*--resume"
    ):
        run_recipe(tiny_recipe(faces), tmp_path / "run", device="cpu", console=QUIET)


@pytest.mark.parametrize("what", ["all", "checkpoints"])
def test_a_directory_that_is_deleted_under_a_run(faces, tmp_path, monkeypatch, what):
    out, original, deleted = tmp_path / "run", trainer.Trainer._train_step, []

    def delete(self, batch):
        if self.progress.step == 5 and not deleted:
            deleted.append(what)
            shutil.rmtree(out if what == "all" else out / "checkpoints")
            if what == "checkpoints":
                raise OSError("stopped")
        original(self, batch)

    monkeypatch.setattr(trainer.Trainer, "_train_step", delete)
    with pytest.raises(
        OSError, match=r"deleted under the run|No checkpoint is left; .*--resume"
    ) as error:
        run_recipe(tiny_recipe(faces), out, device="cpu", console=QUIET)
    if what == "all":
        assert "go on with: " not in str(error.value)
        assert not out.exists()
    else:
        assert run_recipe(
            tiny_recipe(faces), out, resume=True, device="cpu", console=QUIET
        ).finished


def test_the_command_of_an_installed_package(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    assert program.command("recipe", "run", "a b.toml") == "python cli.py recipe run 'a b.toml'"
    assert program.install_command("export") == "pip install -e '.[export]'"
    monkeypatch.setattr(sys, "argv", ["../my code/cli.py"])
    assert program.command("doctor") == "python '../my code/cli.py' doctor"
    monkeypatch.setattr(sys, "argv", ["/home/me/.venv/bin/fusedface"])
    assert program.command("doctor") == "fusedface doctor"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    monkeypatch.setattr(
        program, "ROOT", tmp_path
    )  # a folder without pyproject.toml, as in site-packages
    assert program.command("recipe", "run", "$(x)") == "fusedface recipe run '$(x)'"
    assert program.install_command("export") == "pip install 'fusedface[export]'"


def test_bench_readme_needs_a_checkout(monkeypatch, tmp_path):
    from fusedface.commands.bench_results import write_readme

    monkeypatch.setattr(program, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"installed package.*run it in a clone"):
        write_readme()
