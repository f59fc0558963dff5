"""The training curve shows what metrics.jsonl holds."""

import json

import pytest
from PIL import Image
from summaries import summary

from fusedface.recipes.report.curves import plot_curves
from fusedface.recipes.report.style import new_figure, save, use_style

SUMMARY = summary(seed=4, initial_loss=41.0, collapse_loss=39.5).as_dict()


def write_run(folder, lines):
    (folder / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def train_line(step, **figures):
    basic = {"loss": 40.0 - step, "target_cosine": 0.1, "hard_share": 0.9, "accuracy": 0.2}
    return {"kind": "train", "step": step, **basic, **figures}


def evaluation_line(step, accuracy):
    figures = {"accuracy": accuracy, "accuracy_std": 0.02}
    return {"kind": "evaluation", "step": step, "verification": {"some_set": figures}}


def test_labels_and_landmarks_are_in_the_figure(tmp_path):
    lines = [evaluation_line(0, 0.5), train_line(10, t=0.01), train_line(20, t=0.02)]
    write_run(tmp_path, [*lines, evaluation_line(20, 0.8)])
    png, svg = plot_curves(tmp_path)
    with Image.open(png) as image:
        assert image.width > 800
        assert len(image.convert("RGB").getcolors(maxcolors=2**20)) > 50
    text = svg.read_text(encoding="utf-8")
    for label in ("training loss", "random embeddings", "collapsed", "own class", "some_set", "chance",
                  "a-recipe, seed 4", "negatives that are hard"):  # fmt: skip
        assert label in text, label


def test_a_dollar_in_a_name_is_no_formula(tmp_path):
    figures = {"accuracy": 0.7, "accuracy_std": 0.02}
    line = {"kind": "evaluation", "step": 10, "verification": {"a$_$b": figures}}
    write_run(tmp_path, [train_line(10), line])
    _, svg = plot_curves(tmp_path)
    assert "a$_$b" in svg.read_text(encoding="utf-8")


def test_powers_of_ten_are_formulas(tmp_path):
    with use_style():
        figure = new_figure(3, 2)
        axes = figure.subplots()
        axes.semilogx([1e-3, 1.0], [1e-3, 1.0])
        axes.set_title("a$_$b")
        save(figure, tmp_path / "log.png")
    assert all(tick.label1.get_parse_math() for tick in axes.xaxis.get_major_ticks())
    assert not axes.title.get_parse_math()


def test_a_margin_without_t_has_no_curve_of_it(tmp_path):
    write_run(tmp_path, [train_line(10), train_line(20)])
    _, svg = plot_curves(tmp_path)
    assert "<!-- t -->" not in svg.read_text(encoding="utf-8")
    write_run(tmp_path, [train_line(10, t=0.1), train_line(20, t=0.2)])
    _, svg = plot_curves(tmp_path)
    assert "<!-- t -->" in svg.read_text(encoding="utf-8")


def test_nothing_is_drawn_of_nothing(tmp_path):
    write_run(tmp_path, [evaluation_line(0, 0.5)])
    assert plot_curves(tmp_path) == []


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        plot_curves(tmp_path)
