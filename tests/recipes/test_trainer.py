"""A run from end to end on made-up faces."""

import io
import json
import math
import shutil
import sys

import pytest
import torch
from rich.console import Console
from tiny_run import NUM_IDENTITIES, NUM_IMAGES, faces_of, tiny_recipe

from fusedface.kernels import LDAM
from fusedface.models import build_from_checkpoint
from fusedface.recipes.configuration.settings import override
from fusedface.recipes.evaluation.embedding import NonFiniteEmbeddingsError
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.run import run_recipe
from fusedface.recipes.run_directory.metrics import NoLog, mean_accuracy
from fusedface.recipes.run_directory.rejudge import rejudge
from fusedface.recipes.training import trainer
from fusedface.recipes.training.faces import Faces
from fusedface.recipes.training.logbook import Logbook
from fusedface.recipes.training.progress import Progress


def run(faces, out, *settings, **options):
    console = options.pop("console", Console(quiet=True))
    recipe = override(tiny_recipe(faces), settings)
    return run_recipe(recipe, out, device="cpu", console=console, **options)


def weights(out):
    newest = max((out / "checkpoints").glob("step-*.pt"))
    content = torch.load(newest, weights_only=True)
    return {**content["model"], **{f"head.{k}": v for k, v in content["head"].items()}}


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(faces):
    out = faces / "finished"
    return out, run(faces, out)


def test_everything_is_in_the_run_directory(finished):
    out, summary = finished
    assert {path.name for path in out.iterdir()} >= {
        "recipe.toml", "environment.json", "metrics.jsonl", "checkpoints", "summary.json",
    }  # fmt: skip
    assert json.loads((out / "summary.json").read_text("utf-8")) == summary.as_dict()
    environment = json.loads((out / "environment.json").read_text("utf-8"))
    assert [start["step"] for start in environment] == [0]
    assert environment[0]["seed"] == 5
    assert environment[0]["packages"]["torch"]


def test_the_summary(finished):
    _, summary = finished
    assert (summary.recipe, summary.seed, summary.verdict_step) == ("tiny", 5, None)
    assert summary.verdict in ("converged", "unfinished")
    assert (
        summary.steps == summary.num_steps == 12
    )  # 36 images, 4 whole batches of 8 an epoch, 3 epochs
    assert (summary.num_identities, summary.num_images) == (NUM_IDENTITIES, 36)
    assert summary.seconds > 0
    assert summary.images_per_second > 0
    assert set(summary.verification) == set(summary.untrained) == {"pairs"}
    for figures in (*summary.verification.values(), *summary.untrained.values()):
        assert {"accuracy", "accuracy_std", "tar_at_far", "rank1"} <= figures.keys()
        assert 0.0 <= figures["accuracy"] <= 1.0


def test_it_learns_to_tell_unseen_people_apart(finished):
    _, summary = finished
    after, before = summary.verification["pairs"], summary.untrained["pairs"]
    assert after["accuracy"] > 0.8
    assert after["auc"] > before["auc"] + 0.1


def test_lines_of_metrics(finished):
    out, summary = finished
    lines = metrics(out)
    by_kind = {
        kind: [line["step"] for line in lines if line["kind"] == kind]
        for kind in ("train", "evaluation")
    }
    assert by_kind == {"train": [2, 4, 6, 8, 10, 12], "evaluation": [0, 6, 12]}
    first = next(line for line in lines if line["kind"] == "train")
    assert first["loss"] == pytest.approx(summary.initial_loss, abs=2.5)
    assert first["lr"] == pytest.approx(0.05)
    assert 0.0 <= first["hard_share"] <= 1.0
    assert lines[-2]["loss"] == summary.final_loss < first["loss"]


def test_the_checkpoint_is_the_network_of_the_summary(faces, finished):
    out, summary = finished
    model = build_from_checkpoint(out / "checkpoints" / "step-00000012.pt")
    again = faces_of(tiny_recipe(faces)).evaluate(model)
    assert again["pairs"]["accuracy"] == summary.verification["pairs"]["accuracy"]
    best = torch.load(out / "checkpoints" / "best.pt", weights_only=True)
    accuracies = {
        line["step"]: mean_accuracy(line["verification"])
        for line in metrics(out)
        if line["kind"] == "evaluation" and line["step"] > 0
    }
    assert accuracies[best["step"]] == max(accuracies.values())


def test_a_recipe_file_and_workers_give_the_same_weights(finished, tmp_path):
    from fusedface.recipes.registry import get_recipe

    out, _ = finished
    recipe = override(get_recipe(out / "recipe.toml"), ["data.num_workers=2", "evaluation.every=0"])
    run_recipe(recipe, tmp_path / "again", device="cpu", console=Console(quiet=True))
    ours, theirs = weights(tmp_path / "again"), weights(out)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_seed_matters(faces, finished, tmp_path):
    out, _ = finished
    run(faces, tmp_path / "other", "train.seed=6", "evaluation.every=0")
    assert not torch.equal(weights(tmp_path / "other")["head.weight"], weights(out)["head.weight"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precisions_and_memory_orders(faces, tmp_path, precision):
    settings = ("schedule.steps=3", f"train.precision={precision}", "train.channels_last=false")
    summary = run(faces, tmp_path / "run", *settings)
    assert summary.finished
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(tmp_path / "run").values())
    environment = json.loads((tmp_path / "run" / "environment.json").read_text("utf-8"))
    assert environment[0]["precision"] == precision


def poison(monkeypatch, at_step, where):
    """Make the loss, or a weight of the backbone, NaN at a step."""
    original = trainer.Trainer._train_step

    def poisoned(self, batch):
        if self.progress.step + 1 == at_step:
            learner = self.learner
            tensor = learner.head.weight if where == "head" else learner.model.stem[0].weight
            tensor.data[0] = math.nan
        original(self, batch)

    monkeypatch.setattr(trainer.Trainer, "_train_step", poisoned)


@pytest.mark.parametrize(
    ("where", "named"),
    [("head", "the head's weight"), ("backbone", r"the backbone's stem.conv.weight")],
)
def test_a_loss_that_is_not_finite_stops_the_run(faces, tmp_path, monkeypatch, where, named):
    poison(monkeypatch, at_step=8, where=where)
    summary = run(faces, tmp_path / "run")
    assert (summary.verdict, summary.verdict_step) == ("non_finite", 8)
    assert "step 8" in summary.message
    assert f"first {named}." in summary.message
    assert summary.steps == 7
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_unreadable_images_are_named_once_and_counted(faces, tmp_path):
    broken = tmp_path / "broken"
    for person in sorted((faces / "train").iterdir()):
        (broken / person.name).mkdir(parents=True)
        for image in person.iterdir():
            (broken / person.name / image.name).write_bytes(image.read_bytes())
    bad = [broken / f"person0{i}" / f"{j}.png" for i in range(6) for j in (1, 4)]
    for image in bad:
        image.write_bytes(image.read_bytes()[:60])
    stream = io.StringIO()
    console = Console(file=stream, width=300)
    summary = run(faces, tmp_path / "run", f"data.source={broken}", console=console)
    assert summary.finished
    assert summary.unreadable_images == len(bad) == 12  # of them ten are named
    assert sorted(stream.getvalue().count(str(image)) for image in bad) == [0] * 2 + [1] * 10
    assert stream.getvalue().count("more unreadable images follow") == 1


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("data.source=nowhere", "nowhere"),
        ("evaluation.pairs=nothing.csv", r"nothing\.csv"),
        ("schedule.warmup_steps=12", r"schedule\.warmup_steps must be below the 12 steps"),
        ("data.augmentation=flop", "flop"),
    ],
)
def test_a_mistake_leaves_nothing_behind(faces, tmp_path, setting, named):
    with pytest.raises(ValueError, match=named):
        run(faces, tmp_path / "run", setting)
    assert not (tmp_path / "run").exists()


def test_without_tensorboard_everything_else_is_written(faces, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    stream = io.StringIO()
    run(faces, tmp_path / "run", "schedule.steps=3", console=Console(file=stream, width=200))
    assert stream.getvalue().count("TensorBoard is not installed") == 1
    assert [line["step"] for line in metrics(tmp_path / "run")] == [0, 2, 3, 3]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_the_rate_of_every_step_is_that_of_its_own_index(faces, tmp_path, monkeypatch):
    """Linear warm-up over 2 steps to 0.05, then a half cosine over the other 10."""
    used = []
    original = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        used.append({group["lr"] for group in self.param_groups})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    run(faces, tmp_path / "run", "train.log_every=1", "evaluation.every=0")
    expected = [0.025, 0.05, *(0.025 * (1 + math.cos(math.pi * i / 10)) for i in range(10))]
    assert all(len(rates) == 1 for rates in used)
    assert [rates.pop() for rates in used] == pytest.approx(expected, rel=1e-12)
    logged = [line["lr"] for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert logged == pytest.approx(expected, rel=1e-12)


def test_the_gradient_is_shortened_to_the_limit(faces, tmp_path, monkeypatch):
    """The backbone's, to optim.clip_norm; the class centres' is left as it is."""
    limit, norms = 0.125, []
    original = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        backbone = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        head = next(p for p in backbone if p.shape == (NUM_IDENTITIES, 16))
        squares = [p.grad.double().square().sum() for p in backbone if p is not head]
        norms.append((sum(squares).sqrt().item(), head.grad.norm().item()))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    settings = ("schedule.steps=3", "train.log_every=1", f"optim.clip_norm={limit}")
    run(faces, tmp_path / "run", *settings, "evaluation.every=0")
    lines = [line for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert len(norms) == len(lines) == 3
    for (backbone, head), line in zip(norms, lines, strict=True):
        assert line["grad_norm"] > 2 * limit  # or there was nothing to shorten
        assert backbone == pytest.approx(limit, rel=1e-4)
        assert head == pytest.approx(line["grad_norm_head"], rel=1e-4)


def test_the_best_is_the_first_of_equals(faces, tmp_path, monkeypatch):
    """Accuracies .7, .8, .8, .6 at steps 3, 6, 9, 12: the checkpoint of step 6 stays the best."""
    accuracies = iter((0.5, 0.7, 0.8, 0.8, 0.6))
    figures = {"accuracy_std": 0.0, "num_pairs": 60, "tar_at_far": {}, "auc": 0.5, "rank1": None}
    monkeypatch.setattr(
        Faces, "evaluate", lambda *_: {"pairs": {"accuracy": next(accuracies), **figures}}
    )
    run(faces, tmp_path / "run", "evaluation.every=0.75")
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert best["step"] == 6


def test_without_verification_sets_the_best_is_the_last(faces, tmp_path):
    run(faces, tmp_path / "run", "evaluation.pairs=[]", "evaluation.every=0.75")
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert best["step"] == 12


@pytest.mark.parametrize("error", [NonFiniteEmbeddingsError, ValueError])
def test_what_is_wrong_before_the_first_step_is_a_mistake(faces, tmp_path, monkeypatch, error):
    """Of the network or the pairs as they were given: the error is passed on as it is."""

    def evaluate(self, model, processes):
        raise error("said so")

    monkeypatch.setattr(Faces, "evaluate", evaluate)
    with pytest.raises(ValueError, match=r"^said so") as found:
        run(faces, tmp_path / "run")
    assert type(found.value) is error


def test_faces_to_verify_that_are_lost_later_stop_the_run(faces, tmp_path, monkeypatch):
    original = Faces.evaluate

    def evaluate(self, model, processes):
        if metrics(tmp_path / "run"):
            raise ValueError("said so")
        return original(self, model)

    monkeypatch.setattr(Faces, "evaluate", evaluate)
    with pytest.raises(OSError, match="faces to verify can no longer be read: said so"):
        run(faces, tmp_path / "run")


def test_a_last_step_that_was_not_finite_is_made_again(faces, tmp_path, monkeypatch):
    """As the message says: with another rate. All steps are made, but the run has not finished."""
    out, original = tmp_path / "run", Faces.evaluate

    def evaluate(self, model, processes):
        if [line["step"] for line in metrics(out)][-1:] == [12]:
            raise NonFiniteEmbeddingsError("not finite")
        return original(self, model, processes)

    with monkeypatch.context() as patch:
        patch.setattr(Faces, "evaluate", evaluate)
        summary = run(faces, out, "evaluation.every=0")
    assert (summary.verdict, summary.steps, summary.finished) == ("non_finite", 12, False)
    again = run(
        faces, out, "evaluation.every=0", "optim.lr=0.01", resume=True, allow_change=["optim.lr"]
    )
    assert again.finished
    assert again.recipe_changes[0]["step"] == 9


def test_a_margin_is_told_how_many_images_a_class_has(tmp_path, faces):
    """LDAM trains on a folder whose classes are of different sizes, as it does on given counts."""
    people = tmp_path / "people"
    shutil.copytree(faces / "train", people)
    for image in sorted((people / "person00").iterdir())[:2]:
        image.unlink()
    settings = (
        "head.margin=ldam",
        "head.margin.s=16.0",
        "schedule.steps=3",
        f"data.source={people}",
    )
    summary = run(faces, tmp_path / "run", *settings)
    counts = (NUM_IMAGES - 2, *[NUM_IMAGES] * (NUM_IDENTITIES - 1))
    told = LDAM(s=16.0, class_counts=counts).collapse_loss(NUM_IDENTITIES)
    assert summary.collapse_loss == told
    assert told != LDAM(s=16.0, class_counts=(6,) * 6).collapse_loss(NUM_IDENTITIES)
    assert summary.class_sizes == {"4": 1, "6": NUM_IDENTITIES - 1}
    found = rejudge(tmp_path / "run")
    assert (found.before, found.now.message) == (summary.verdict, summary.message)
    path = tmp_path / "run" / "summary.json"
    path.write_text(json.dumps(summary.as_dict() | {"class_sizes": {}}), encoding="utf-8")
    with pytest.raises(ValueError, match="how many images each person has"):
        rejudge(tmp_path / "run")


def test_self_paced_learning_keeps_and_logs_its_bound(tmp_path, faces):
    settings = ("head.margin=arcface", "head.weighting=self_paced", "head.weighting.growth=1.5")
    run(faces, tmp_path / "run", *settings, "schedule.steps=4")
    bounds = [line["loss_bound"] for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert len(bounds) == 2
    # A line is the mean over two steps, in each of which the bound grew.
    assert bounds[1] / bounds[0] == pytest.approx(1.5**2, rel=1e-5)
    last = bounds[1] * 2 / 2.5 * 1.5
    assert weights(tmp_path / "run")["head.loss_bound"].item() == pytest.approx(last, rel=1e-5)


class OnRankOne(Processes):
    """This process where rank 0 has met a full disk."""

    def gather(self, value):
        return [((OSError, "No space left on device"), None), value]


def test_all_processes_end_if_the_first_cannot_write_a_line():
    """Otherwise the others would wait for it in the next step, and a comparison would hang."""
    processes = OnRankOne(rank=1, count=2, control=object())
    book = Logbook(NoLog(), Progress(step=3), None, None, None, None, None, processes)
    with pytest.raises(OSError, match="No space left"):
        book.log_evaluation({})
