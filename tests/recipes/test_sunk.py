"""The verdict `sunk`, its three conditions one by one, and what a run that sank is advised to try."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from summaries import summary
from typer.testing import CliRunner
from verdict_curves import evaluations, falling, train, verdict

from fusedface import cli
from fusedface.recipes.configuration.settings import to_toml
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.run_directory import closing
from fusedface.recipes.run_directory.reader import RunRecord
from fusedface.recipes.run_directory.rejudge import find_runs, rejudge

ACCURACIES = evaluations(0.6, *[0.7] * 10)


def sinking(cosine=-0.8, nearest=-0.77, accuracy=0.001):
    """A run whose target cosine falls from 0.05 to `cosine` in its first half, and stays there."""
    lines = falling()
    for i, line in enumerate(lines):
        share = min(1.0, i / 50)
        line["target_cosine"] = 0.05 + share * (cosine - 0.05)
        line["max_negative_cosine"] = 0.3 + share * (nearest - 0.3)
        line["accuracy"] = accuracy
    return lines


def test_cosines_that_fell_together():
    """As ArcFace ends on 1,000 people: -0.80, nearest other -0.77, training accuracy 0."""
    found = verdict(sinking() + ACCURACIES)
    # -0.1 is passed between lines 8 and 9 of 50.
    assert (found.verdict, found.step) == ("sunk", 100)
    for part in (
        "below -0.1 from step 100",
        "ends at -0.80",
        "at -0.77",
        "training accuracy is 0.1%",
    ):
        assert part in found.message


def test_it_says_what_was_foretold_and_where_it_would_have_turned():
    """At step 100 the target cosine is -0.103; F0/2 is 0.061 and sin(m/2) 0.25 for m = 0.5."""
    message = verdict(sinking() + ACCURACIES, warmup_steps=20).message
    assert "at step 100 it was -0.103, below the F0/2 = 0.061" in message
    assert "above 0.25 the margin would have raised" in message
    straight = verdict(sinking() + ACCURACIES, target_gradient="straight_through")
    assert (straight.verdict, "F0" in straight.message) == ("sunk", False)


@pytest.mark.parametrize(
    "changes",
    [
        {"cosine": -0.09},  # where runs go either way
        {"nearest": -0.91},  # below its own class by more than a margin of 0.5 asks for
        {"accuracy": 0.51},  # MV-Arc on 23 people: -0.41, and most training images are recognised
    ],
)
def test_each_condition_is_needed(changes):
    found = verdict(sinking(**changes) + ACCURACIES)
    assert found.verdict == "converged"
    low = changes.get("cosine", -0.8) < -0.1
    assert ("but the target cosine is" in found.message) == low


def test_a_run_that_came_back_has_not_sunk():
    lines = sinking()
    for line in lines[80:]:
        line |= {"target_cosine": 0.4, "max_negative_cosine": 0.38, "accuracy": 0.7}
    assert verdict(lines + ACCURACIES).verdict == "converged"


def test_only_the_margin_of_the_end_can_sink_a_run():
    """Softmax first: what came before does not date it."""
    assert verdict(sinking() + ACCURACIES, margin_begins=500).step == 510


def test_without_the_figures_nothing_is_claimed():
    lines = train([20.0] * 100, cosine=-0.8)
    assert verdict(lines + ACCURACIES).verdict != "sunk"


def test_a_sunk_run_that_verifies_no_better_than_before_is_sunk():
    assert verdict(sinking() + evaluations(0.7, 0.6, 0.6)).verdict == "sunk"


def test_it_is_marked_on_curves_where_it_happened():
    assert RunRecord([], [], summary(verdict="sunk", verdict_step=90)).went_wrong_at == 90


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("converged", ["cli.py export", "out/run"]),
        ("unfinished", ["schedule.steps=200", "out/run/recipe.toml"]),
        ("sunk", ["schedule.loss=0.1 s=16, 0.2 s=32", "head.target_gradient=straight_through"]),
        ("collapsed", ["schedule.loss=0.1 s=16, 0.2 s=32"]),
        ("interrupted", ["GO ON"]),
    ],
)
def test_the_last_lines_say_what_was_learned_and_what_to_type(name, words, tmp_path, capsys):
    sets = {"lfw": {"accuracy": 0.875}, "orl": {"accuracy": 0.925}}
    before = {"lfw": {"accuracy": 0.6}, "orl": {"accuracy": 0.7}}
    found = summary(verdict=name, message="why", verification=sets, untrained=before)
    for figures in (*sets.values(), *before.values()):
        figures["accuracy_std"] = 0.0
    closing.print_summary(found, Path("out/run"), "GO ON", Console(width=120))
    *_, verdict_line, learned, last = capsys.readouterr().out.splitlines()
    assert verdict_line == f"{name}: why"
    told = "90.00% of the pairs of faces are decided correctly, 65.00% before training"
    assert learned == (f"it learned: {told}" if name in ("converged", "unfinished") else told)
    for part in words:
        assert part in last


def write_run(folder, lines, **changes):
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(to_toml(get_recipe("mobilefacenet-arcface")))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(
        json.dumps(summary(num_identities=1000, num_steps=1000, **changes).as_dict())
    )


def test_finished_runs_are_judged_again(tmp_path):
    """Both verdicts; nothing in the folder changes."""
    lines = sorted(sinking() + ACCURACIES, key=lambda line: line["step"])
    write_run(tmp_path / "a" / "seed0", lines, verdict="converged")
    write_run(tmp_path / "b", lines[:3], verdict="interrupted", message="SIGINT")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    found = [rejudge(folder) for folder in find_runs([tmp_path, tmp_path / "b"])]
    assert [(run.before, run.now.verdict) for run in found] == [
        ("converged", "sunk"), ("interrupted", "interrupted"),
    ]  # fmt: skip
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    result = CliRunner().invoke(cli.app, ["recipe", "judge", str(tmp_path)])
    assert result.exit_code == 0
    assert "sunk" in result.output
    (tmp_path / "b" / "summary.json").unlink()
    with pytest.raises(ValueError, match="has not ended"):
        rejudge(tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no run"):
        find_runs([tmp_path / "empty"])
