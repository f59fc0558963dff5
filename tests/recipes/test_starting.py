"""A run that begins with a checkpoint: its weights, centres at its people, and what is refused by name."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from starting_points import write_checkpoint
from tiny_run import checkpoint_at, faces_of, same, tiny_recipe

from fusedface.data import open_source
from fusedface.models import build_from_checkpoint
from fusedface.models.starting_point import Classes, StartingPoint
from fusedface.recipes.configuration.own_files import with_init
from fusedface.recipes.configuration.recipe import Data, Synthetic
from fusedface.recipes.configuration.settings import override, to_dict
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training import trainer
from fusedface.recipes.training.people import embed_people
from fusedface.recipes.training.starting import same_people

pytestmark = pytest.mark.usefixtures("short_networks")


class StopError(Exception):
    """As if the process had been killed."""


def begin(faces, checkpoint, out, *settings, **options):
    recipe = override(with_init(tiny_recipe(faces), checkpoint), settings)
    console = options.pop("console", Console(quiet=True))
    return run_recipe(recipe, out, device="cpu", console=console, **options)


def independent_means(faces, checkpoint):
    """Class means in float64 from the files themselves, with the checkpoint's own mean and deviation."""
    model = build_from_checkpoint(checkpoint).double()
    means, cosines = {}, []
    for person in sorted((faces / "train").iterdir()):
        pixels = [np.asarray(Image.open(file), np.float64) for file in sorted(person.iterdir())]
        images = (np.stack(pixels) - [100.0, 110.0, 120.0]) / 127.5
        with torch.no_grad():
            embeddings = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        mean = units.mean(axis=0)
        means[person.name] = mean / np.linalg.norm(mean)
        cosines += [*(units @ means[person.name])]
    return means, float(np.mean(cosines))


@pytest.fixture(scope="module")
def begun(faces, checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("begun") / "run"
    summary = begin(faces, checkpoint, out, "schedule.steps=1", "schedule.warmup_steps=0")
    return out, summary


def test_it_begins_with_the_weights_of_the_file(begun, checkpoint):
    out, summary = begun
    assert same(checkpoint_at(out, 0)["model"], torch.load(checkpoint, weights_only=True)["model"])
    assert not same(checkpoint_at(out, 1)["model"], checkpoint_at(out, 0)["model"])
    assert summary.init == str(checkpoint)
    assert checkpoint_at(out, 0)["preprocessing"]["flip"] == "concat"
    assert checkpoint_at(out, 0)["preprocessing"]["mean"] == [100.0, 110.0, 120.0]


def test_centres_are_the_class_means_and_t_the_mean_target_cosine(begun, faces, checkpoint):
    out, _ = begun
    head = checkpoint_at(out, 0)["head"]
    means, cosine = independent_means(faces, checkpoint)
    expected = torch.from_numpy(np.stack([means[name] for name in sorted(means)])).float()
    torch.testing.assert_close(head["weight"], expected, atol=2e-6, rtol=0)
    assert head["t"].item() == pytest.approx(cosine, abs=2e-6)
    assert cosine > 0.5


def test_the_recipe_says_which_file_by_path_and_hash(begun, checkpoint):
    from hashlib import sha256

    init = get_recipe(begun[0] / "recipe.toml").init
    assert init.checkpoint == str(checkpoint)
    assert init.sha256 == sha256(checkpoint.read_bytes()).hexdigest()


def test_random_centres_are_those_of_a_run_from_scratch(faces, checkpoint, tmp_path):
    short = ("schedule.steps=1", "schedule.warmup_steps=0", "train.checkpoint_every=1")
    begin(faces, checkpoint, tmp_path / "a", "init.centres=random", *short)
    head = checkpoint_at(tmp_path / "a", 0)["head"]
    assert head["t"] == 0.0
    assert head["weight"].norm(dim=1).mean() == pytest.approx(0.01 * 16**0.5, rel=0.3)


def killed_at(step):
    original = trainer.Trainer._train_step

    def stop(self, batch):
        if self.progress.step == step:
            raise StopError
        original(self, batch)

    return stop


EVERYTHING = (
    "train.freeze=5", "train.ema=0.5", "schedule.loss=0.3 normface,0.6 s=8 m=0.1", "optim.lr_head=0.2",
    "train.checkpoint_every=2", "train.freeze_statistics=true",
)  # fmt: skip


@pytest.mark.parametrize(("kind", "stops"), [("sgd", (1, 6)), ("adamw", (9,))])
def test_it_resumes_to_the_same_bits_without_the_file(kind, stops, faces, checkpoint, tmp_path):
    """Killed within the first steps, the freeze, each stage of the loss."""
    settings = (*EVERYTHING, f"optim.kind={kind}", "optim.lr=0.01")
    mine = tmp_path / "mine.pt"
    shutil.copy(checkpoint, mine)
    recipe = override(with_init(tiny_recipe(faces), mine), settings)
    quiet = {"device": "cpu", "console": Console(quiet=True)}
    run_recipe(recipe, tmp_path / "whole", **quiet)
    for step in stops:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer.Trainer, "_train_step", killed_at(step))
            with pytest.raises(StopError):
                run_recipe(recipe, tmp_path / f"at{step}", **quiet)
    mine.unlink()
    whole = checkpoint_at(tmp_path / "whole", 12)
    for step in stops:
        again = get_recipe(tmp_path / f"at{step}" / "recipe.toml")
        run_recipe(again, tmp_path / f"at{step}", resume=True, **quiet)
        ours = checkpoint_at(tmp_path / f"at{step}", 12)
        for part in ("model", "in_training", "head"):
            assert same(ours[part], whole[part]), (step, part)
        for index, state in whole["optimizer"]["state"].items():
            assert same(ours["optimizer"]["state"][index], state)
        lines = [lines_of(tmp_path / name) for name in ("whole", f"at{step}")]
        assert lines[0] == lines[1]


def lines_of(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


def test_a_frozen_backbone_stays_as_it_is_while_the_centres_learn(faces, checkpoint, tmp_path):
    settings = ("train.freeze=5", "train.checkpoint_every=1", "train.keep_checkpoints=20")
    begin(faces, checkpoint, tmp_path / "run", *settings)
    start, frozen, free = (checkpoint_at(tmp_path / "run", step) for step in (0, 5, 6))
    assert same(frozen["model"], start["model"])
    assert not torch.equal(frozen["head"]["weight"], start["head"]["weight"])
    changed = [k for k, v in free["model"].items() if not torch.equal(v, start["model"][k])]
    assert len(changed) > 0.9 * len(start["model"])


def test_frozen_statistics(faces, checkpoint, tmp_path):
    short = ("schedule.steps=3", "train.freeze_statistics=true", "train.keep_checkpoints=9")
    begin(faces, checkpoint, tmp_path / "run", *short)
    start, end = (checkpoint_at(tmp_path / "run", step)["model"] for step in (0, 3))
    for name in start:
        kept = name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
        assert torch.equal(start[name], end[name]) == kept, name


def test_the_average_of_weights_is_what_is_saved_and_verified(faces, checkpoint, tmp_path):
    out = tmp_path / "run"
    kept = ("train.ema=0.6", "train.checkpoint_every=1", "train.keep_checkpoints=20")
    summary = begin(faces, checkpoint, out, *kept)
    average = {k: v.double() for k, v in checkpoint_at(out, 0)["model"].items()}
    for step in range(1, 13):
        weights = checkpoint_at(out, step)["in_training"]
        decay = min(0.6, (1 + step) / (10 + step))
        average = {k: decay * v + (1 - decay) * weights[k].double() for k, v in average.items()}
    saved = checkpoint_at(out, 12)["model"]
    for name, value in average.items():
        if saved[name].is_floating_point():
            torch.testing.assert_close(saved[name].double(), value, atol=1e-5, rtol=1e-5)
    model = build_from_checkpoint(out / "checkpoints" / "step-00000012.pt")
    again = faces_of(tiny_recipe(faces)).evaluate(model)
    assert again == summary.verification


@pytest.fixture
def others(faces, tmp_path):
    """The same faces, of whom two have other names."""
    shutil.copytree(faces / "train", tmp_path / "faces")
    for old, new in (("person01", "ann"), ("person04", "zoe")):
        (tmp_path / "faces" / old).rename(tmp_path / "faces" / new)
    return tmp_path / "faces"


def test_people_who_stay_keep_their_centres_by_name(faces, others, tmp_path):
    names = [f"person{i:02d}" for i in range(6)]
    centres = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    path = write_checkpoint(tmp_path / "people.pt", names, centres)
    means, _ = independent_means(faces, path)
    means |= {"ann": means["person01"], "zoe": means["person04"]}
    short = ("schedule.steps=1", "schedule.warmup_steps=0", f"data.source={others}")
    for choice in ("checkpoint", "mean"):
        out = tmp_path / choice
        begin(faces, path, out, *short, f"init.centres={choice}")
        saved = checkpoint_at(out, 0)
        assert saved["classes"] == ["ann", "person00", "person02", "person03", "person05", "zoe"]
        for name, centre in zip(saved["classes"], saved["head"]["weight"], strict=True):
            if choice == "checkpoint" and name in names:
                assert torch.equal(centre, centres[names.index(name)])
            else:
                expected = torch.from_numpy(means[name]).float()
                torch.testing.assert_close(centre, expected, atol=2e-6, rtol=0)


def test_numbers_are_the_same_people_in_the_same_data_only():
    centres = torch.zeros(3, 4)
    here = Data(source="/faces/a")
    numbered = Classes(("0", "1", "ann"), centres, to_dict(here))
    assert same_people(numbered, ["1", "ann"], here) == {0: 1, 1: 2}
    assert same_people(numbered, ["1", "ann"], Data(source="/faces/b")) == {1: 2}
    assert same_people(Classes(("ann", "ann", "bob"), centres, {}), ["ann", "bob"], here) == {1: 2}
    generated = Classes(("identity 0",), centres, to_dict(Data(synthetic=Synthetic(seed=1))))
    assert same_people(generated, ["identity 0"], Data(synthetic=Synthetic(seed=1))) == {0: 0}
    assert same_people(generated, ["identity 0"], Data(synthetic=Synthetic(seed=2))) == {}
    for damaged in ({}, {"source": 3}, {1: 2}, {"synthetic": []}):
        assert same_people(Classes(("0",), centres, damaged), ["0"], here) == {}


def test_an_image_that_cannot_be_read_takes_no_part_in_a_mean(others, checkpoint):
    model = build_from_checkpoint(checkpoint)
    (others / "ann" / "0.png").write_bytes(b"no image")
    for file in (others / "zoe").iterdir():
        file.write_bytes(b"no image")
    people = embed_people(model, open_source(others), range(6))
    assert people.counts.tolist() == [5, 6, 6, 6, 6, 0]
    assert people.sums[5].abs().sum() == 0
    some = embed_people(model, open_source(others), range(2, 4))
    assert some.counts.tolist() == [6, 6]
    torch.testing.assert_close(some.sums, people.sums[2:4], atol=1e-5, rtol=0)
    none = embed_people(model, open_source(others), range(6, 6))
    assert none.sums.shape == (0, 16)


def test_shapes_that_differ_are_listed_and_as_drawn(faces, checkpoint, tmp_path):
    stream = io.StringIO()
    short = ("schedule.steps=1", "schedule.warmup_steps=0", "backbone.embedding_dim=8")
    begin(faces, checkpoint, tmp_path / "run", *short, console=Console(file=stream, width=500))
    (line,) = [line for line in stream.getvalue().splitlines() if "not taken from" in line]
    assert (
        "of another shape: embedding.conv.weight (16, 128, 1, 1) instead of (8, 128, 1, 1)" in line
    )
    ours, theirs = (
        checkpoint_at(tmp_path / "run", 0)["model"],
        StartingPoint(checkpoint)._contents.tensors,
    )
    for name, value in theirs.items():
        assert (name in ours and torch.equal(ours[name], value)) == (
            ours[name].shape == value.shape
        ), name


def test_two_rates(faces, checkpoint, tmp_path):
    """A rate of the centres of almost nothing leaves them where they are; the backbone moves as ever."""
    recipe = with_init(tiny_recipe(faces), checkpoint)
    slow = replace(recipe, optim=replace(recipe.optim, lr_head=1e-9, weight_decay_head=0.0))
    run_recipe(slow, tmp_path / "run", device="cpu", console=Console(quiet=True))
    start, end = checkpoint_at(tmp_path / "run", 9), checkpoint_at(tmp_path / "run", 12)
    torch.testing.assert_close(end["head"]["weight"], start["head"]["weight"], atol=1e-6, rtol=0)
    assert not same(end["model"], start["model"])
