"""A run goes on with its own recipe, images and states; what is to change is said and recorded."""

import json
import re
import shutil

import pytest
import torch
from rich.console import Console
from tiny_run import tiny_recipe, write_faces

from fusedface.data import changed_images, fingerprint, fingerprints, open_source
from fusedface.recipes.configuration.settings import from_dict, override, read_recipe, to_toml
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training import trainer

pytestmark = pytest.mark.usefixtures("short_networks")

QUIET = Console(quiet=True)


class StopError(Exception):
    """As if the process had been killed."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder of faces, and a run on it that was killed at step 8; its checkpoints are of 3 and 6."""
    folder = write_faces(tmp_path_factory.mktemp("faces"))
    original = trainer.Trainer._train_step

    def step(self, batch):
        if self.progress.step == 8:
            raise StopError
        original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "_train_step", step)
        with pytest.raises(StopError):
            run_recipe(tiny_recipe(folder), folder / "run", device="cpu", console=QUIET)
    return folder


@pytest.fixture(scope="module")
def finished(stopped):
    """The same run, come to its end."""
    shutil.copytree(stopped / "run", stopped / "finished")
    return stopped / "finished", resume(stopped / "finished")


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of that run."""
    shutil.copytree(stopped / "run", tmp_path / "run")
    return tmp_path / "run"


def resume(run, *settings, **options):
    recipe = override(read_recipe(run / "recipe.toml"), settings)
    return run_recipe(recipe, run, resume=True, device="cpu", console=QUIET, **options)


def newest(run):
    return max((run / "checkpoints").glob("step-*.pt"))


def edit_checkpoint(run, change):
    content = torch.load(newest(run), weights_only=True)
    change(content)
    torch.save(content, newest(run))


def snapshot(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_an_edited_recipe_is_refused_by_key_with_both_values(run):
    edited = override(read_recipe(run / "recipe.toml"), ["optim.lr=0.3", "head.margin.m=0.2"])
    (run / "recipe.toml").write_text(to_toml(edited), encoding="utf-8")
    before = snapshot(run)
    with pytest.raises(ValueError, match=r"step-00000006\.pt is of another recipe") as error:
        resume(run)
    assert "head.margin.m: 0.2 instead of 0.3" in str(error.value)
    assert "optim.lr: 0.3 instead of 0.05" in str(error.value)
    assert "--allow-change head.margin.m --allow-change optim.lr" in str(error.value)
    assert snapshot(run) == before


def test_weights_that_do_not_fit_are_refused_even_if_the_change_is_allowed(run):
    with pytest.raises(
        ValueError, match=r"step-00000006\.pt: its model does not fit this recipe: .* inst"
    ):
        resume(run, "backbone.embedding_dim=8", allow_change=["backbone"])


def test_a_change_that_is_allowed_is_used_and_recorded(run, monkeypatch):
    rates = {}
    original = torch.optim.SGD.step

    def step(self, *arguments, **options):
        rates[len(rates)] = {(g["lr"], g["momentum"], g["weight_decay"]) for g in self.param_groups}
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    settings = ("optim.lr=0.3", "optim.momentum=0.5", "optim.weight_decay_head=0.001")
    with pytest.raises(ValueError, match=r"optim\.momentum: 0\.5 instead of 0\.9"):
        resume(run, *settings, allow_change=["optim.lr"])
    summary = resume(run, *settings, allow_change=["optim"])
    assert summary.finished
    assert len(rates) == 6
    # Step index 6 of 12 with 2 of warm-up: u = 0.4 of the half cosine.
    first = sorted(rates[0], key=lambda values: values[2])
    assert [values[0] for values in first] == pytest.approx([0.3 * 0.6545084971874737] * 3)
    assert [values[1:] for values in first] == [(0.5, 0.0), (0.5, 4e-5), (0.5, 0.001)]
    lines = [
        "optim.lr: 0.3 instead of 0.05",
        "optim.momentum: 0.5 instead of 0.9",
        "optim.weight_decay_head: 0.001 instead of 0.0004",
    ]
    assert summary.recipe_changes == [{"step": 6, "changes": lines}]
    stored = json.loads((run / "summary.json").read_text("utf-8"))
    assert stored["recipe_changes"] == summary.recipe_changes
    content = torch.load(newest(run), weights_only=True)
    assert content["progress"]["recipe_changes"] == summary.recipe_changes
    assert from_dict(content["recipe"]) == read_recipe(run / "recipe.toml")
    assert read_recipe(run / "recipe.toml").optim.lr == 0.3
    assert resume(run) == summary  # with what is now its recipe


def test_a_finished_run_does_not_pass_for_one_of_an_edited_recipe(finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    edited = override(read_recipe(run / "recipe.toml"), ["optim.lr=0.3"])
    (run / "recipe.toml").write_text(to_toml(edited), encoding="utf-8")
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.3 instead of 0\.05"):
        resume(run)
    with pytest.raises(ValueError, match=r"has finished with other settings"):
        resume(run, allow_change=["optim.lr"])


def put(path, value):
    def change(content):
        *groups, last = path.split("/")
        for group in groups:
            content = content[int(group) if group.isdigit() else group]
        if value is None:
            del content[last]
        else:
            content[int(last) if last.isdigit() else last] = value

    return change


BAD = {
    "a step of another run": (put("progress/step", 10**9), "its progress is that of step 1000000000"),
    "a step that is none": (put("progress/step", "6"), r"progress\.step must be a whole number"),
    "a negative time": (put("progress/train_seconds", -1.0), r"progress\.train_seconds must be"),
    "no untrained figures": (put("progress/untrained", 3), r"progress\.untrained must be"),
    "figures of nothing": (put("progress/verification", {"a": {}}), r"progress\.verification must"),
    "a best that is NaN": (put("progress/best_accuracy", float("nan")), "best_accuracy must be"),
    "an unknown entry": (put("progress/mood", 3), r"unknown \['mood'\]"),
    "no progress": (put("progress", None), "entry 'progress' is missing"),
    "no meter": (put("progress/meter", None), r"progress\.meter is not a table"),
    "a narrow meter": (put("progress/meter", torch.zeros(2, 3)), r"progress\.meter is not a table"),
    "no rng": (put("rng", None), "entry 'rng' is missing"),
    "an empty rng": (put("rng", {}), "its rng holds no states"),
    "no head": (put("head", None), "entry 'head' is missing"),
    "a head without t": (put("head/t", None), "its head does not fit this recipe: t is missing"),
    "a head of other people": (put("head/weight", torch.zeros(9, 16)), r"weight is \(9, 16\) instead of"),
    "sparse class centres": (put("head/weight", torch.zeros(6, 16).to_sparse()), "weight is not a tensor"),
    "a model of numbers": (put("model/embedding.1.weight", 3), r"embedding\.1\.weight is"),
    "no optimizer": (put("optimizer", None), "entry 'optimizer' is missing"),
    "no momentum": (put("optimizer/state", {}), "holds no momentum"),
    "other momentum": (put("optimizer/state/0", {"momentum_buffer": torch.zeros(1)}), "state 0 is not mom"),
    "no recipe": (put("recipe", None), "entry 'recipe' is missing"),
    "a damaged recipe": (put("recipe/optim", []), "its recipe cannot be read: optim must be a table"),
    "a step that is not its name's": (put("step", 7), "it is of step 7"),
    "another version": (put("version", 77), "not a checkpoint of this version"),
    "no scaler": (put("scaler", None), "entry 'scaler' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_a_checkpoint_holds_is_checked(run, name):
    change, said = BAD[name]
    edit_checkpoint(run, change)
    before = snapshot(run)
    with pytest.raises(ValueError, match=rf"cannot go on from .*step-00000006\.pt: .*{said}"):
        resume(run)
    assert snapshot(run) == before


def test_a_changed_precision_is_recorded(run):
    """train.precision=auto on another device."""
    edit_checkpoint(run, put("progress/precision", "float16"))
    summary = resume(run)
    ((said,),) = (change["changes"] for change in summary.recipe_changes)
    assert re.fullmatch(r"the precision: b?float\d\d instead of float16, by the device", said)


def test_the_summary_of_a_run_that_goes_on_is_gone(finished, tmp_path, monkeypatch):
    """Killed again, the run must not have the verdict of an earlier end."""
    run = shutil.copytree(finished[0], tmp_path / "run")
    summary = finished[1].as_dict() | {"verdict": "interrupted", "steps": 9}
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (run / "checkpoints" / "step-00000012.pt").unlink()

    def step(self, batch):
        raise StopError

    monkeypatch.setattr(trainer.Trainer, "_train_step", step)
    with pytest.raises(StopError):
        resume(run)
    assert not (run / "summary.json").exists()


def test_a_checkpoint_beyond_the_end_of_the_run(run):
    with pytest.raises(ValueError, match=r"it is of step 6, and this run has 4 steps"):
        resume(run, "schedule.steps=4", allow_change=["schedule.steps"])


SIDECARS = {
    "metrics.jsonl": ["[]\n", '{"kind": "train", "loss": 3.0}\n', '{"kind": "tr\n{}\n', "\xff\xfe\n"],
    "environment.json": ["{}", "[", "\xff", "[" * 100_000],
    "recipe.toml": ["[", "\xff"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in SIDECARS.items() for t in texts])
def test_damaged_files_of_a_run_are_named_and_left(run, name, text):
    recipe = read_recipe(run / "recipe.toml")
    (run / name).write_bytes(text.encode("latin-1"))
    before = snapshot(run)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        run_recipe(recipe, run, resume=True, device="cpu", console=QUIET)
    assert snapshot(run) == before


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"recipe": 3}', "\xff", "null"])
def test_a_damaged_summary_is_written_again(finished, tmp_path, text):
    _, summary = finished
    run = shutil.copytree(finished[0], tmp_path / "run")
    measured = dict.fromkeys(("seconds", "cpu_seconds", "peak_memory_mib"), 0)
    figures = summary.as_dict() | measured
    (run / "summary.json").write_bytes(text.encode("latin-1"))
    again = resume(run).as_dict()
    assert again | measured == figures
    stored = json.loads((run / "summary.json").read_text("utf-8"))
    assert stored == again


def test_a_run_whose_metrics_are_lost_goes_on(finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    (run / "summary.json").unlink()
    (run / "metrics.jsonl").unlink()
    summary = resume(run)
    assert (summary.steps, summary.verdict) == (12, "unfinished")
    assert "no line of training metrics is left" in summary.message


@pytest.fixture
def own_faces(tmp_path):
    """Faces that may be changed, and a run on them that ended after its first checkpoint."""
    faces = write_faces(tmp_path)
    recipe = override(tiny_recipe(faces), ["schedule.steps=4", "train.checkpoint_every=4"])
    run_recipe(recipe, tmp_path / "run", device="cpu", console=QUIET)
    (tmp_path / "run" / "summary.json").unlink()
    return tmp_path


def swap(one, other):
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def two_images(folder):
    people = sorted((folder / "train").iterdir())
    return min(people[0].iterdir()), min(people[1].iterdir())


def test_images_that_were_swapped_are_noticed(own_faces):
    """Names, number and labels are as they were."""
    swap(*two_images(own_faces))
    with pytest.raises(
        ValueError, match=r"36 images of 6 people, but their files have other content"
    ):
        resume(own_faces / "run")
    summary = resume(own_faces / "run", allow_change=["data.source"])
    said = "the training images: 36 images of 6 people, but their files have other content"
    assert summary.recipe_changes == [{"step": 4, "changes": [said]}]


def test_a_copy_of_a_small_set_is_the_same_set(own_faces):
    """Told by content: another time of change is not a change."""
    for path in (own_faces / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes())
    assert resume(own_faces / "run").finished


def test_large_sets_are_told_by_size_and_time(own_faces, monkeypatch):

    monkeypatch.setattr(fingerprints, "MAX_READ", 1)
    monkeypatch.setattr(fingerprints, "_content", None)
    before = fingerprint(open_source(own_faces / "train"))
    assert before["by"] == "size and time"
    assert changed_images(before, fingerprint(open_source(own_faces / "train"))) is None
    swap(*two_images(own_faces))
    said = changed_images(before, fingerprint(open_source(own_faces / "train")))
    assert said.endswith("their files have other sizes or times of change")


def test_a_checkpoint_without_a_fingerprint_of_files_goes_on(run):
    """As earlier versions wrote it."""
    edit_checkpoint(run, lambda content: [content["data"].pop(key) for key in ("by", "files")])
    assert resume(run).finished
