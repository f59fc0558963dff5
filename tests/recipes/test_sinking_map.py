"""The map of sinking: predictions before runs, and how they are judged afterwards."""

import io
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from cli_calls import invoke
from rich.console import Console
from summaries import summary

from fusedface.recipes.compare import predictions
from fusedface.recipes.compare.map_outcome import outcome, score_lines
from fusedface.recipes.compare.map_settings import BORDER, LONGER, SETTINGS, STEPS, Setting
from fusedface.recipes.compare.predictions import (
    Prediction,
    predict,
    read_predictions,
    write_predictions,
)
from fusedface.recipes.compare.results import RunResult
from fusedface.recipes.compare.sinking_map import plan_map, run_map
from fusedface.recipes.report.map_plot import plot_map


def prediction(**changes):
    given = Prediction(
        label="x", slope_gap=0.122, contrast=0.03, score=1.0, learns_untrained=True,
        learns_above=0.061, asked_at=100,
    )  # fmt: skip
    return replace(given, **changes)


def result(cosines, every=10):
    names = (
        "max_negative_cosine",
        "accuracy",
        "embedding_common",
        "centre_common",
        "centre_length",
    )
    lines = [
        {"step": every * (i + 1), "target_cosine": cosine, **dict.fromkeys(names, 0.5)}
        for i, cosine in enumerate(cosines)
    ]
    return RunResult(lines, [], summary(), plan_map(Path(), SETTINGS[:1])[0])


def judged(*cosines, **changes):
    """Of a run whose target cosine is the first until step 90, the second at 100, the last at its end."""
    early, asked, last = cosines
    return outcome(result([early] * 9 + [asked] + [last] * 14), prediction(**changes))


def test_the_settings_are_apart_and_run(tmp_path):
    runs = plan_map(tmp_path)
    settings = SETTINGS + BORDER
    assert len({run.folder for run in runs}) == len({s.label for s in settings}) == len(settings)
    assert len(SETTINGS) >= 30
    assert {run.recipe.schedule.steps for run in runs[: len(SETTINGS)]} == {STEPS}
    assert {run.recipe.schedule.steps for run in runs[len(SETTINGS) :]} == {STEPS, LONGER}
    assert all(run.recipe.train.seed == run.seed for run in runs)


def test_a_prediction_is_the_formula_of_the_documentation(tmp_path):
    setting = Setting("few", changes=(
        "data.synthetic.num_identities=8", "data.synthetic.images_per_identity=4",
        "optim.batch_size=16", "backbone.input_size=[32, 32]", "backbone.width=0.25",
    ))  # fmt: skip
    found = predict(setting)
    expected = 19.2 + 1.8 * math.log(found.contrast) - 2.5 * math.log(8 * 4 / 16)
    assert found.score == pytest.approx(expected - 16.9 * (1 - math.cos(0.5)), abs=0.02)
    assert 0.0 < found.contrast < 0.5
    assert (found.learns_above, found.asked_at) == (pytest.approx(0.0612, abs=1e-4), 100)
    assert predict(setting) == found  # the seed decides
    write_predictions([found], tmp_path / "a" / "predictions.json")
    assert read_predictions(tmp_path / "a" / "predictions.json") == {"few": found}


def test_predictions_must_be_there_before_the_runs(tmp_path):
    with pytest.raises(ValueError, match="written before the runs, with --predict"):
        read_predictions(tmp_path / "none.json")
    for content in ([], {"format": "x"}, {"format": "fusedface predictions of sinking"}):
        (tmp_path / "bad.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="not a file of predictions"):
            read_predictions(tmp_path / "bad.json")


def test_what_becomes_of_a_run():
    """The line of step 100 is asked; what lies within 0.1 of cosine 0 at the end is not decided."""
    found = judged(0.0, 0.07, 0.4)
    assert (found.asked, found.last, found.learned, found.says_asked) == (0.07, 0.4, True, True)
    assert len(found.path) == 24
    assert judged(0.3, 0.05, -0.4).learned is False
    assert judged(0.3, 0.05, -0.4).says_asked is False
    assert judged(0.0, 0.07, 0.1).learned is None
    assert judged(0.0, -0.5, 0.2, learns_above=None).says_asked is True


def test_the_score_counts_false_alarms_and_misses():
    outcomes = [
        judged(0.0, 0.07, 0.4),  # right
        judged(0.0, 0.05, 0.4),  # false alarm
        judged(0.0, 0.07, -0.4),  # miss, as before training
        judged(0.0, 0.05, -0.4, learns_untrained=False),  # right
        judged(0.0, 0.05, 0.0),  # undecided
    ]
    first, before, asked = score_lines(outcomes)
    assert first == "5 settings: 2 learned, 2 sank, 1 undecided"
    assert before == "before training: 3 of 4 right (75%), 0 false alarms, 1 misses"
    assert asked == "at the criterion: 2 of 4 right (50%), 1 false alarms, 1 misses"


def test_a_map_without_predictions_or_runs(tmp_path):
    """It goes on from what is there; where nothing is, it says so and draws nothing."""
    stream = io.StringIO()
    path = tmp_path / "predictions.json"
    write_predictions([prediction(label=SETTINGS[0].label)], path)
    options = {"jobs": 1, "minutes": 0.0, "device": torch.device("cpu")}
    console = Console(file=stream, width=150)
    assert run_map(tmp_path / "out", path, console=console, **options) == []
    assert "1 settings, 0 of them done before" in stream.getvalue()
    assert json.loads((tmp_path / "out" / "map.json").read_text())["outcomes"] == []


def test_outcomes_of_an_earlier_session_are_kept(tmp_path):
    """Of two settings one is in map.json; neither is run, and the first stays as it was."""
    labels = [setting.label for setting in SETTINGS[:2]]
    path, out, stream = tmp_path / "predictions.json", tmp_path / "out", io.StringIO()
    write_predictions([prediction(label=label) for label in labels], path)
    old = replace(judged(0.0, 0.07, 0.4), label=labels[0])
    out.mkdir()
    without = {name: value for name, value in asdict(old).items() if name != "seconds"}
    (out / "map.json").write_text(json.dumps({"seconds": 100, "outcomes": [without]}))
    options = {"jobs": 1, "minutes": 0.0, "device": torch.device("cpu")}
    for _ in range(2):  # the second reads what the first has written
        assert run_map(out, path, console=Console(file=stream, width=150), **options) == [old]
        assert json.loads((out / "map.json").read_text())["seconds"] == 100
    assert "2 settings, 1 of them done before" in stream.getvalue()
    (out / "map.json").write_text('{"outcomes": [{"label": "x"}]}')
    with pytest.raises(ValueError, match="not the file of a map"):
        run_map(out, path, console=Console(file=stream, width=150), **options)


def test_the_picture(tmp_path):
    plot_map([[(10, 0.1), (20, 0.3)]], [], 100, tmp_path / "map.png")
    assert {path.name for path in tmp_path.iterdir()} == {"map.png", "map.svg"}


def test_no_runs_at_once_are_refused():
    assert "--jobs" in invoke("recipe", "map", "--jobs", 0, code=2)


def test_the_border_is_only_predicted(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "predict", lambda setting: prediction(label=setting.label))
    path = tmp_path / "border.json"
    invoke("recipe", "map", "--predict", "--border", "--predictions", path)
    assert [*read_predictions(path)] == [setting.label for setting in BORDER]
    with pytest.raises(ValueError, match="--border needs --predict"):
        invoke("recipe", "map", "--border")
