"""A run from end to end on made-up faces, and the parts of the trainer."""

import io
import json
import math
import shutil
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_run import NUM_IDENTITIES, NUM_IMAGES, tiny_recipe, write_faces

from fusedface.data import FaceDataset, SomeIdentities, SyntheticFaces, open_source
from fusedface.kernels import LDAM, AdaFace, ArcFace, CurricularFace, SelfPaced, margin_loss
from fusedface.models import MarginHead, Preprocessing, build_from_checkpoint
from fusedface.recipes.configuration.settings import override, with_data
from fusedface.recipes.evaluation.evaluate import NonFiniteEmbeddingsError
from fusedface.recipes.run import pick_device, run_recipe
from fusedface.recipes.run_directory.figures import mean_accuracy
from fusedface.recipes.training import trainer
from fusedface.recipes.training.batches import Batches
from fusedface.recipes.training.faces import Faces, open_faces
from fusedface.recipes.training.meter import FIGURES, Meter
from fusedface.recipes.training.precision import pick_precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"))


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
        "curves.png", "curves.svg",
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
    again = open_faces(tiny_recipe(faces), CPU, lambda _: None).evaluate(model)
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

    def poisoned(self, images, labels):
        if self.progress.step + 1 == at_step:
            tensor = self.head.weight if where == "head" else self.model.stem[0].weight
            tensor.data[0] = math.nan
        original(self, images, labels)

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


def test_a_device_that_is_read_rarely_still_names_the_step():
    meter = Meter(num_classes=4)
    for loss in (1.0, math.inf, math.nan):
        weight, labels = torch.eye(4), torch.tensor([0])
        out = margin_loss(torch.eye(4)[:1], weight, labels, ArcFace())
        meter.add(out._replace(loss=torch.tensor(loss)), torch.tensor(1.0), torch.tensor(1.0))
    assert meter.first_non_finite(scaled=True) == 1  # one step before the newest
    assert meter.first_non_finite(scaled=False) == 1


def test_a_scaled_gradient_may_overflow():
    meter = Meter(num_classes=4)
    out = margin_loss(torch.eye(4)[:1], torch.eye(4), torch.tensor([0]), ArcFace())
    meter.add(out, torch.tensor(math.inf), torch.tensor(1.0))
    assert meter.first_non_finite(scaled=True) is None
    assert meter.first_non_finite(scaled=False) == 0


def test_figures_of_a_batch_worked_out_by_hand():
    """Two classes at right angles: embedding 0 is its own centre, embedding 1 the other's."""
    meter = Meter(num_classes=2)
    weight, labels = torch.eye(2), torch.tensor([0, 0])
    out = margin_loss(torch.eye(2), weight, labels, ArcFace(m=0.5, s=4.0))
    meter.add(out, torch.tensor(3.0), torch.tensor(7.0))
    figures = meter.take()
    assert figures["target_cosine"] == pytest.approx(0.5)
    assert figures["max_negative_cosine"] == pytest.approx(0.5)
    assert figures["accuracy"] == 0.5
    assert figures["hard_share"] == 0.5  # the second's only negative has cosine 1 > cos(pi/2 + m)
    assert (figures["grad_norm"], figures["grad_norm_head"]) == (3.0, 7.0)
    # Sample 0: T = cos m against N = 0, nothing hard. Sample 1: T = -sin m against N = 1.
    assert figures["loss_easy"] == pytest.approx(math.log1p(math.exp(-4 * math.cos(0.5))), rel=1e-5)
    assert figures["loss_hard"] == pytest.approx(math.log1p(math.exp(4 * (1 + math.sin(0.5)))))
    assert figures["target_cosine_p05"] == pytest.approx(0.05)
    assert figures["target_cosine_p95"] == pytest.approx(0.95)
    assert figures["max_negative_cosine_max"] == pytest.approx(1.0)
    assert "t" not in figures  # ArcFace has none
    assert meter.rows == []


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


def test_devices():
    assert pick_device("cpu") == CPU
    with pytest.raises(ValueError, match="device 'gpu'"):
        pick_device("gpu")


def test_float16_is_refused_on_the_cpu():
    assert pick_precision("float32", CPU).dtype == torch.float32
    assert pick_precision("auto", CPU).dtype in (torch.float32, torch.bfloat16)
    with pytest.raises(ValueError, match=r"train\.precision must not be float16 on cpu"):
        pick_precision("float16", CPU)


def test_each_epoch_is_another_order_of_the_same_images():
    batches = Batches(num_images=23, batch_size=5, seed=3)
    assert batches.steps_per_epoch == 4
    epochs = [list(batches.rest_of_epoch(step)) for step in (0, 4)]
    for epoch in epochs:
        indices = [index for batch in epoch for index in batch]
        assert max(Counter(indices).values()) == 1
        assert set(indices) <= set(range(23))
        assert [len(batch) for batch in epoch] == [5, 5, 5, 5]
    assert epochs[0] != epochs[1]
    assert list(batches.rest_of_epoch(6)) == epochs[1][2:]
    assert list(Batches(23, 5, seed=4).rest_of_epoch(0)) != epochs[0]
    small = Batches(num_images=3, batch_size=5, seed=0)
    assert sorted(next(small.rest_of_epoch(7))) == [0, 1, 2]


def test_each_epoch_is_augmented_anew():
    """From wherever it begins: the images are those of the dataset at that epoch."""
    source = SyntheticFaces(5, 3, image_size=(32, 32))
    preprocessing = Preprocessing(input_size=(32, 32))
    dataset, other = (FaceDataset(source, "flip", preprocessing, seed=2) for _ in range(2))
    batches = Batches(len(source), 7, seed=3)
    assert batches.steps_per_epoch == 2
    for step, epoch in ((0, 0), (1, 0), (2, 1), (5, 2)):
        other.set_epoch(epoch)
        expected = [other.batch(indices).images for indices in batches.rest_of_epoch(step)]
        loaded = batches.load(dataset, step, num_workers=0, pin_memory=False)
        found = [batch.images for batch in loaded]
        assert len(found) == len(expected) == 2 - step % 2
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def many_people(folder, count):
    rng = np.random.default_rng(1)
    from PIL import Image

    for identity in range(count):
        (folder / f"p{identity:03d}").mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"p{identity:03d}" / f"{number}.png")
    return folder


def test_no_seed_shares_an_epoch_with_another():
    """Seeds that differ by one are the usual ones of a comparison."""
    orders = {
        (seed, epoch): tuple(next(Batches(40, 40, seed).rest_of_epoch(epoch)))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == len(orders)


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
        Faces, "evaluate", lambda self, model: {"pairs": {"accuracy": next(accuracies), **figures}}
    )
    run(faces, tmp_path / "run", "evaluation.every=0.75")
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert best["step"] == 6


@pytest.mark.parametrize("error", [NonFiniteEmbeddingsError, ValueError])
def test_what_is_wrong_before_the_first_step_is_a_mistake(faces, tmp_path, monkeypatch, error):
    """Of the network or the pairs as they were given: the error is passed on as it is."""

    def evaluate(self, model):
        raise error("said so")

    monkeypatch.setattr(Faces, "evaluate", evaluate)
    with pytest.raises(ValueError, match=r"^said so") as found:
        run(faces, tmp_path / "run")
    assert type(found.value) is error


def test_faces_to_verify_that_are_lost_later_stop_the_run(faces, tmp_path, monkeypatch):
    original = Faces.evaluate

    def evaluate(self, model):
        if metrics(tmp_path / "run"):
            raise ValueError("said so")
        return original(self, model)

    monkeypatch.setattr(Faces, "evaluate", evaluate)
    with pytest.raises(OSError, match="faces to verify can no longer be read: said so"):
        run(faces, tmp_path / "run")


def test_people_are_held_out_where_there_are_enough(tmp_path):
    source = many_people(tmp_path / "many", 60)
    recipe = with_data(tiny_recipe(tmp_path), source, [], None)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, pairs=(), num_pairs=40))
    with pytest.raises(
        ValueError, match=r"240 of 240 images are not 32x32 \(8x8: 240\).*data\.resize"
    ):
        open_faces(recipe, CPU, lambda _: None)
    recipe = override(recipe, ["data.resize=true"])
    notes = []
    faces = open_faces(recipe, CPU, notes.append)
    assert faces.train.num_classes == 54
    assert len(faces.train) == 54 * 4
    pairs = faces.tests["held-out"]
    assert (pairs.same.sum(), len(pairs)) == (20, 40)
    tested = {pairs.images.source.describe(int(i)) for i in pairs.images.indices}
    trained = {faces.train.describe(i) for i in range(len(faces.train))}
    people = [{path.split("/")[-2] for path in paths} for paths in (tested, trained)]
    assert len(people[0]) == 6
    assert people[0].isdisjoint(people[1])
    assert any("6 of 60 people are kept back" in note for note in notes)
    assert any("240 of 240 images are not 32x32 (8x8: 240); they are scaled" in n for n in notes)
    assert faces.overlap == {"held-out": "none of its people is trained on"}


def test_too_few_people_are_all_trained_on(faces):
    recipe = tiny_recipe(faces)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, pairs=()))
    notes = []
    opened = open_faces(recipe, CPU, notes.append)
    assert opened.tests == {}
    assert opened.train.num_classes == NUM_IDENTITIES
    assert any("too few" in note for note in notes)


def test_verification_on_people_that_are_trained_on_is_told(faces, tmp_path):
    """Of three people in the list one is trained on, with the very photos."""
    notes = []
    strangers = open_faces(tiny_recipe(faces), CPU, notes.append).overlap
    none = "no name and no image of it is among the training people and images"
    assert strangers == {"pairs": none}
    assert any(note.endswith(f"images; {none}") for note in notes)
    lines = ["test/person07/0.png,test/person07/1.png,1,0"] * 2
    lines += ["test/person06/0.png,train/person02/3.png,0,1"] * 2
    (tmp_path / "mixed.csv").write_text("\n".join(lines))
    recipe = with_data(tiny_recipe(faces), faces / "train", [tmp_path / "mixed.csv"], faces)
    told = open_faces(recipe, CPU, notes.append).overlap["mixed"]
    assert told == (
        "1 of its 3 people have the names of training people (person02); "
        "1 of its 4 images are training images"
    )
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    summary = run_recipe(
        override(recipe, ["schedule.steps=3"]), tmp_path / "run", device="cpu", console=console
    )
    assert summary.overlap == {"mixed": told}
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["overlap"] == {"mixed": told}
    assert f"mixed: {told}" in stream.getvalue()
    assert "not trained on" not in stream.getvalue()


def test_some_identities_are_numbered_anew(faces):
    source = open_source(faces / "train")
    some = SomeIdentities(source, [1, 4])
    assert some.class_names == ["person01", "person04"]
    assert some.labels.tolist() == [0] * NUM_IMAGES + [1] * NUM_IMAGES
    assert np.array_equal(some.image(NUM_IMAGES), source.image(4 * NUM_IMAGES))
    assert some.describe(0) == source.describe(NUM_IMAGES)


def test_generated_people_of_the_evaluation_are_strangers(tmp_path):
    settings = [
        "data.source=synthetic", "data.synthetic.num_identities=10", "evaluation.num_identities=20",
        "data.synthetic.images_per_identity=4", "evaluation.images_per_identity=4",
        "evaluation.num_pairs=40",
    ]  # fmt: skip
    recipe = tiny_recipe(tmp_path)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, pairs=()))
    recipe = override(recipe, settings)
    faces = open_faces(recipe, CPU, lambda _: None)
    people = set(faces.tests["synthetic"].images.source.class_names)
    assert people == {f"identity {number}" for number in range(10, 30)}
    assert set(faces.train.class_names) == {f"identity {number}" for number in range(10)}
    summary = run_recipe(recipe, tmp_path / "run", device="cpu", console=Console(quiet=True))
    assert summary.finished
    assert set(summary.verification) == {"synthetic"}


@pytest.mark.parametrize(
    ("margin", "options"),
    [(CurricularFace(), {}), (AdaFace(), {}), (ArcFace(), {"weighting": SelfPaced()})],
    ids=["t", "averages", "bound"],
)
def test_every_state_is_measured_by_its_name(margin, options):
    head = MarginHead(8, 5, margin, **options)
    meter = Meter(num_classes=5, state_names=tuple(head.state))
    out = head(torch.eye(8)[:3], torch.tensor([0, 1, 2]))
    meter.add(out, torch.tensor(1.0), torch.tensor(1.0))
    figures = meter.take()
    assert head.state
    for name, value in head.state.items():
        assert figures[name] == pytest.approx(value.item())


@pytest.mark.parametrize("states", [("t",), (), ("norm_mean", "norm_std")], ids=str)
def test_measurements_of_an_older_version_go_on(states):
    """They had a column of t for every loss, NaN where it had none."""
    meter = Meter(num_classes=5, state_names=states)
    rows = torch.arange(2.0 * (len(FIGURES) + 1)).view(2, -1)
    meter.restore(rows, torch.device("cpu"))
    figures = meter.take()
    assert figures["loss"] == rows[:, 0].mean()
    assert figures["modulation_max"] == rows[:, -2].mean()
    assert set(figures) == {*FIGURES, *(("t",) if states == ("t",) else ())}


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


def test_self_paced_learning_keeps_and_logs_its_bound(tmp_path, faces):
    settings = ("head.margin=arcface", "head.weighting=self_paced", "head.weighting.growth=1.5")
    run(faces, tmp_path / "run", *settings, "schedule.steps=4")
    bounds = [line["loss_bound"] for line in metrics(tmp_path / "run") if line["kind"] == "train"]
    assert len(bounds) == 2
    # A line is the mean over two steps, in each of which the bound grew.
    assert bounds[1] / bounds[0] == pytest.approx(1.5**2, rel=1e-5)
    last = bounds[1] * 2 / 2.5 * 1.5
    assert weights(tmp_path / "run")["head.loss_bound"].item() == pytest.approx(last, rel=1e-5)
