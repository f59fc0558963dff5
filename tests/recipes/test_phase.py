"""The plot of the common force: what it reads of a run; a run by the law lies on its prediction."""

import json
import math

import pytest
from summaries import summary

from fusedface.recipes.configuration.settings import override, to_toml
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.report.phase import plot_phase, read_path

A, LENGTH, RATE, CLASSES = 0.5, 4.0, 0.05, 100


def write_run(folder, settings=(), target_cosine=-0.2, steps=range(10, 310, 10)):
    """ArcFace with m = 0.5 at one target cosine, whose class centres follow db/dt = beta F a (1 - b^2)."""
    folder.mkdir()
    gap = 1.0 - math.sin(math.acos(target_cosine) + 0.5) / math.sin(math.acos(target_cosine))
    beta = RATE / 0.1 * 64.0 / (CLASSES * LENGTH**2)
    lines = [
        {
            "kind": "train", "step": step, "loss": 9.0, "seconds": 1.0, "lr": RATE,
            "target_cosine": target_cosine, "embedding_common": A, "centre_length": LENGTH,
            "centre_common": math.tanh(beta * gap * A * step),
        }
        for step in steps
    ]  # fmt: skip
    recipe = override(get_recipe("mobilefacenet-arcface"), list(settings))
    (folder / "recipe.toml").write_text(to_toml(recipe))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ended = summary(num_identities=CLASSES, num_steps=300, recipe="mobilefacenet-arcface")
    (folder / "summary.json").write_text(json.dumps(ended.as_dict()))
    return folder


def test_a_run_by_the_law_is_predicted(tmp_path):
    """In closed form b = tanh(beta F a t); the steps of ten of the plot come within 2 %."""
    path = read_path(write_run(tmp_path / "run"))
    assert path.moments[0].step == 100  # 20 of warm-up and 80
    assert path.measured[-1] > 2 * path.measured[0]
    assert path.predicted == pytest.approx(path.measured, rel=0.02)


def test_stages_and_the_gradient_of_the_run_count(tmp_path):
    run = write_run(tmp_path / "a", ["schedule.loss=0.5 s=16"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    named = [line | {"stage": "s=16" if line["step"] <= 150 else "arcface"} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in named))
    stages = read_path(run)
    by_step = {moment.step: moment.pace for moment in stages.moments}
    assert by_step[300] == pytest.approx(4 * by_step[150])
    straight = read_path(write_run(tmp_path / "b", ["head.target_gradient=straight_through"]))
    assert {moment.gap for moment in straight.moments} == {0.0}


def test_runs_that_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match="too few lines after step 100"):
        read_path(write_run(tmp_path / "short", steps=range(10, 110, 10)))
    with pytest.raises(ValueError, match="adamw"):
        read_path(write_run(tmp_path / "adamw", ["optim.kind=adamw", "optim.lr=0.001"]))


def test_the_files(tmp_path):
    plot_phase([], tmp_path / "losses" / "phase.png")
    plot_phase([write_run(tmp_path / "run")], tmp_path / "runs" / "phase.png")
    for folder in ("losses", "runs"):
        assert {p.name for p in (tmp_path / folder).iterdir()} == {"phase.png", "phase.svg"}


def test_each_loss_that_can_sink_is_marked(tmp_path):
    """ArcFace and MV-Arc; the labels of the curves stay those of the curves."""
    plot_phase([], tmp_path / "phase.png")
    drawn = (tmp_path / "phase.svg").read_text("utf-8")
    assert drawn.count("F0/2") == drawn.count("turns") == 2
    assert "_child" not in drawn
