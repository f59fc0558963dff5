"""A comparison: what is planned, that it is fair, and a small one end to end."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from small_models import shortened
from tiny_run import tiny_recipe, write_faces
from typer.testing import CliRunner

from fusedface import cli
from fusedface.kernels import ArcFace, CosFace, CurricularFace, MVArc, NormFace
from fusedface.recipes.compare import compare as compare_module
from fusedface.recipes.compare import page, pool, study
from fusedface.recipes.compare.compare import compare
from fusedface.recipes.compare.plan import plan
from fusedface.recipes.compare.protocols import PAPER_SET, PROTOCOLS, get_protocol, with_settings
from fusedface.recipes.compare.results import read_result
from fusedface.recipes.compare.reuse import inputs_of
from fusedface.recipes.configuration.settings import override
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training import trainer

MARGINS = [CurricularFace(), ArcFace(), MVArc(t=1.4), NormFace(), CosFace()]


def recipes_of(folder, *settings, margins=MARGINS[:2]):
    base = override(tiny_recipe(folder), settings)
    return [
        replace(base, name=f"tiny-{margin.name}", head=replace(base.head, margin=margin))
        for margin in margins
    ]


def test_the_paper_set_differs_in_the_loss_alone(tmp_path):
    for name, settings in PROTOCOLS.items():
        recipes = [override(get_recipe(recipe), settings) for recipe in PAPER_SET]
        runs = plan(recipes, 3, None, tmp_path)
        assert len(runs) == 18, name
        assert [run.seed for run in runs] == [0] * 6 + [1] * 6 + [2] * 6
        assert len({run.folder for run in runs}) == 18
        assert all(run.recipe.train.seed == run.seed for run in runs)
    with pytest.raises(ValueError, match="did you mean 'small'"):
        get_protocol("smal")


def test_what_else_differs_is_refused(tmp_path):
    one, other = recipes_of(tmp_path)
    slower = override(other, ["optim.lr=0.01"])
    with pytest.raises(
        ValueError, match=r"tiny-arcface and tiny-curricularface differ in optim\.lr"
    ):
        plan([one, slower], 1, None, tmp_path)
    with pytest.raises(ValueError, match="same loss"):
        plan([one, replace(one, name="again")], 1, None, tmp_path)
    with pytest.raises(ValueError, match="at least two losses"):
        plan([one], 1, None, tmp_path)
    with pytest.raises(ValueError, match="--seeds"):
        plan([one, other], 0, None, tmp_path)


def test_a_parameter_that_some_margins_have():
    recipes = [get_recipe(f"mobilefacenet-{name}") for name in ("arcface", "curricular")]
    arcface, curricular = with_settings(
        recipes, ["head.margin.t_momentum=0.99", "head.margin.s=32"]
    )
    assert arcface.head.margin == ArcFace(s=32.0)
    assert curricular.head.margin == CurricularFace(s=32.0, t_momentum=0.99)
    with pytest.raises(ValueError, match=r"no recipe of this comparison has 'head\.margin\.k'"):
        with_settings(recipes, ["head.margin.k=1"])


def test_a_sweep(tmp_path):
    recipes = [
        get_recipe(f"mobilefacenet-{name}") for name in ("arcface", "arcface-m045", "normface")
    ]
    labels = [run.label for run in plan(recipes, 1, "m=0.3,0.45", tmp_path)]
    assert labels == [
        "mobilefacenet-arcface m=0.3", "mobilefacenet-arcface m=0.45", "mobilefacenet-normface",
    ]  # fmt: skip
    for bad in ("m", "m=", "m=-1", "k=1"):
        with pytest.raises(ValueError, match=r"--margins|head\.margin"):
            plan(recipes, 1, bad, tmp_path)


def test_every_loss_starts_from_the_same_weights_and_sees_the_same_images(tmp_path, monkeypatch):
    """By hash: weights before the first step, and pixels and labels of every step."""
    shortened(monkeypatch)
    folder = write_faces(tmp_path)
    seen: list[str] = []

    def record(self, batch):
        digest = hashlib.sha256()
        if self.progress.step == 0:
            for state in (self.learner.model.state_dict(), {"weight": self.learner.head.weight}):
                for tensor in state.values():
                    digest.update(tensor.detach().float().numpy().tobytes())
        digest.update(batch.seen().numpy().tobytes() + batch.labels.numpy().tobytes())
        seen[-1] += digest.hexdigest()
        original(self, batch)

    original = trainer.Trainer._train_step
    monkeypatch.setattr(trainer.Trainer, "_train_step", record)
    settings = ["schedule.steps=6", "evaluation.every=1"]
    runs = plan(recipes_of(folder, *settings, margins=MARGINS), 2, None, tmp_path / "out")
    for run in runs:
        seen.append(run.seed * "#")
        run_recipe(run.recipe, run.folder, device="cpu", console=Console(quiet=True))
    assert len(seen) == 10
    by_seed = {seen[i].lstrip("#") for i in range(5)}, {seen[i].lstrip("#") for i in range(5, 10)}
    assert [len(hashes) for hashes in by_seed] == [1, 1]
    assert by_seed[0] != by_seed[1]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of two losses and two seeds, each run in its own process."""
    folder = write_faces(tmp_path_factory.mktemp("compare"))
    recipes = recipes_of(folder, "schedule.steps=6", "train.log_every=2")
    stream = io.StringIO()
    console = Console(file=stream, width=250)
    out = folder / "out"
    losses = compare(recipes, out, num_seeds=2, jobs=2, device=torch.device("cpu"), console=console)
    return recipes, out, losses, stream.getvalue()


def test_a_comparison_end_to_end(compared):
    _, out, losses, printed = compared
    assert {loss.label for loss in losses} == {"tiny-curricularface", "tiny-arcface"}
    assert all(sum(loss.verdicts.values()) == 2 and loss.final.count == 2 for loss in losses)
    content = json.loads((out / "comparison.json").read_text("utf-8"))
    assert all((out / run["folder"] / "summary.json").exists() for run in content["runs"])
    assert content["reference"] == "tiny-curricularface"
    assert len(content["runs"]) == 4
    assert {path.name for path in out.iterdir()} == {
        "comparison.json",
        "report.html",
        "figures",
        "runs",
    }
    assert "ArcFace" in (out / "report.html").read_text("utf-8")
    assert "tiny-arcface" in printed
    assert "4 runs, 0 of them done before, 2 at a time" in printed


def test_a_run_of_a_comparison_is_that_of_recipe_run(compared, tmp_path):
    recipes, out, _, _ = compared
    summary = run_recipe(recipes[1], tmp_path / "alone", device="cpu", console=Console(quiet=True))
    theirs = json.loads((out / "runs/tiny-arcface/seed5/summary.json").read_text("utf-8"))
    assert summary.final_loss == pytest.approx(theirs["final_loss"], rel=1e-3)


def test_what_is_finished_is_not_repeated(compared, monkeypatch):
    recipes, out, losses, _ = compared
    monkeypatch.setattr(pool, "_start", lambda *_: pytest.fail("a run was repeated"))
    monkeypatch.setattr(page, "write_page", lambda results, losses, out: out / "report.html")
    quiet = Console(quiet=True)
    again = compare(recipes, out, num_seeds=2, jobs=2, device=torch.device("cpu"), console=quiet)
    assert again == losses


def test_a_stopped_comparison_goes_on(compared, tmp_path):
    """SIGTERM ends its runs in good order; the next call ends with the same accuracies."""
    _, _, _, _ = compared
    folder = write_faces(tmp_path)
    recipes = recipes_of(folder, "schedule.steps=400", "train.log_every=1", "evaluation.every=100")
    for recipe in recipes:
        from fusedface.recipes.configuration.settings import to_toml

        (tmp_path / f"{recipe.name}.toml").write_text(to_toml(recipe))
    files = [tmp_path / f"{recipe.name}.toml" for recipe in recipes]
    command = [sys.executable, "-m", "fusedface.cli", "recipe", "compare", *map(str, files)]
    command += [
        "--seeds",
        "1",
        "--protocol",
        "recipe",
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    runs = plan(recipes, 1, None, tmp_path / "out")
    while process.poll() is None and not read_result(runs[0]).train:
        time.sleep(0.05)
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "the same command goes on" in output
    stopped = read_result(runs[0])
    assert (stopped.verdict, stopped.done) == ("interrupted", False)
    assert 0 < stopped.summary.steps < 400


def test_what_cannot_be_read_is_told_before_anything_runs(tmp_path):
    recipes = recipes_of(write_faces(tmp_path), "data.source=nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        compare(
            recipes, tmp_path / "out", num_seeds=1, device=torch.device("cpu"), console=Console()
        )
    assert not (tmp_path / "out").exists()


def copied(compared, tmp_path):
    recipes, out, _, _ = compared
    return recipes, Path(shutil.copytree(out, tmp_path / "runs" / "compare"))


def tried(monkeypatch, recipes, out, console=None):
    """The runs that a comparison would begin; none is."""
    begun = []
    monkeypatch.setattr(
        compare_module, "run_all", lambda runs, *_: begun.extend(runs) or "the test"
    )
    cpu = torch.device("cpu")
    compare(recipes, out, num_seeds=2, device=cpu, console=console or Console(quiet=True))
    return begun


def test_runs_of_other_settings_are_not_taken(compared, tmp_path, monkeypatch):
    recipes, out = copied(compared, tmp_path)
    assert tried(monkeypatch, recipes, out) == []
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    faster = [override(recipe, ["optim.lr=0.3"]) for recipe in recipes]
    wanted = r"optim\.lr: 0\.3 instead of 0\.05(.|\n)*new folder with --out"
    with pytest.raises(ValueError, match=wanted):
        tried(monkeypatch, faster, out)
    # Other losses in the same folder, which nothing in it has yet: all else must be alike too.
    others = recipes_of(tmp_path, "schedule.steps=6", "train.log_every=2", margins=MARGINS[2:])
    others = [
        replace(other, data=recipes[0].data, evaluation=recipes[0].evaluation) for other in others
    ]
    assert len(tried(monkeypatch, others, tmp_path / "new")) == 6
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.3"):
        tried(monkeypatch, [override(other, ["optim.lr=0.3"]) for other in others], out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_runs_of_other_code_data_or_device_are_not_taken(compared, tmp_path, monkeypatch):
    recipes, out = copied(compared, tmp_path)
    beside = out / "runs/tiny-arcface/seed5.json"
    for key in ("code", "torch", "device", "training images", "pairs of pairs"):
        inputs = json.loads(beside.read_text("utf-8"))
        beside.write_text(json.dumps(inputs | {key: "another"}), "utf-8")
        with pytest.raises(ValueError, match=f"{key}: .* instead of another"):
            tried(monkeypatch, recipes, out)
        beside.write_text(json.dumps(inputs), "utf-8")
    for content in ("[]", "{", 100_000 * "["):
        beside.write_text(content, "utf-8")
        with pytest.raises(ValueError, match="cannot be read"):
            tried(monkeypatch, recipes, out)
    beside.unlink()
    with pytest.raises(ValueError, match=r"seed5\.json is missing"):
        tried(monkeypatch, recipes, out)


def test_another_image_is_other_data(tmp_path):
    folder = write_faces(tmp_path)
    recipe = recipes_of(folder)[0]
    before = inputs_of(recipe, torch.device("cpu"))
    assert inputs_of(recipe, torch.device("cpu")) == before
    one = folder / "train" / "person00" / "0.png"
    shutil.copy(one, one.with_name("more.png"))
    after = inputs_of(recipe, torch.device("cpu"))
    assert {key for key in before if before[key] != after[key]} == {"training images"}


def test_faces_in_another_folder_are_the_same_data(tmp_path):
    """A study that had been begun with the faces in one folder was refused with them in another."""
    here, there = (recipes_of(write_faces(tmp_path / name))[0] for name in ("here", "there"))
    before = inputs_of(here, torch.device("cpu"))
    assert inputs_of(there, torch.device("cpu")) == before
    assert study.digest_of(here) == study.digest_of(there)
    assert study.digest_of(replace(here, name="other")) != study.digest_of(there)
    image = next((tmp_path / "there" / "test").rglob("1.png"))
    image.write_bytes(image.with_name("2.png").read_bytes())
    after = inputs_of(there, torch.device("cpu"))
    assert {key for key in before if before[key] != after[key]} == {"pairs of pairs"}


def test_the_default_folder_is_that_of_the_same_comparison(compared, tmp_path, monkeypatch):
    recipes, _ = copied(compared, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert tried(monkeypatch, recipes, None) == []
    faster = [override(recipe, ["optim.lr=0.3"]) for recipe in recipes]
    console = Console(file=io.StringIO(), width=250)
    begun = tried(monkeypatch, faster, None, console)
    assert {run.folder.parents[2] for run in begun} == {Path("runs/compare-2")}
    assert "optim.lr: 0.3 instead of 0.05" in console.file.getvalue()


def test_two_recipes_of_one_name_are_refused(tmp_path):
    one, other = recipes_of(tmp_path)
    with pytest.raises(ValueError, match="'tiny-arcface' is the name of two"):
        plan([one, other, replace(other, head=one.head)], 1, None, tmp_path)


def test_the_labels_of_a_sweep_are_its_values(tmp_path):
    recipes = [get_recipe(f"mobilefacenet-{name}") for name in ("arcface", "cosface")]
    runs = plan(recipes, 1, "m=0.30, 2.5e-1", tmp_path)
    assert {run.label.partition(" ")[2] for run in runs} == {"m=0.3", "m=0.25"}


@pytest.mark.parametrize(("verdict", "status"), [("failed", 1), ("non_finite", 0)])
def test_a_comparison_with_a_failed_run_ends_with_status_1(monkeypatch, tmp_path, verdict, status):
    losses = [SimpleNamespace(verdicts={"converged": 2, verdict: 1})]
    monkeypatch.setattr(compare_module, "compare", lambda *_, **__: losses)
    done = CliRunner().invoke(cli.app, ["recipe", "compare", "--device", "cpu"])
    assert done.exit_code == status


def test_runs_that_fail_say_why(tmp_path):
    recipes = recipes_of(write_faces(tmp_path), "data.augmentation=nowhere")
    with pytest.raises(ValueError, match=r"every run failed; the first said: error: .*nowhere"):
        compare(
            recipes, tmp_path / "out", num_seeds=1, jobs=1, device=torch.device("cpu"),
            console=Console(quiet=True),
        )  # fmt: skip
