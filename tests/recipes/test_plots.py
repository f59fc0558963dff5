"""What the figures draw, against the paper's formulas; what the report holds."""

import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
from summaries import summary
from tiny_run import tiny_recipe
from typer.testing import CliRunner

from fusedface import cli
from fusedface.kernels import ArcFace, CurricularFace, MVArc, NormFace
from fusedface.recipes.configuration.settings import override, to_toml
from fusedface.recipes.report.convergence import plot_convergence
from fusedface.recipes.report.html import Figure, Link, Prose, Table, write_html
from fusedface.recipes.report.margins import boundary_gap, factor, loss_ratio, pair_loss, slope
from fusedface.recipes.report.named_groups import seeds_by_loss
from fusedface.recipes.report.runs import band, group_runs
from fusedface.recipes.run_directory.reader import read_run

COSINES = np.linspace(0.05, 0.95, 7)


def test_modulation():
    assert factor(ArcFace(), {}, COSINES) == pytest.approx(np.ones(7))
    assert factor(MVArc(t=1.4), {}, COSINES) == pytest.approx(np.full(7, 1.4))
    assert factor(CurricularFace(), {"t": 0.3}, COSINES) == pytest.approx(0.3 + COSINES)
    assert slope(ArcFace(), {}, COSINES) == pytest.approx(np.ones(7))
    assert slope(MVArc(t=1.4), {}, COSINES) == pytest.approx(np.full(7, 1.4))
    assert slope(CurricularFace(), {"t": 0.3}, COSINES) == pytest.approx(0.3 + 2 * COSINES)


@pytest.mark.parametrize("degrees", [10.0, 35.0, 60.0])
def test_boundaries_of_table_1(degrees):
    """On each loss's boundary, worked out from its formula, the gap is 0."""
    y, m = math.radians(degrees), 0.5
    target = math.cos(y + m)
    t = 0.6
    on = {
        (NormFace(), None): math.cos(y),
        (ArcFace(m=m), None): target,
        (MVArc(m=m, t=1.2), None): (target + 1 - 1.2) / 1.2,
        (CurricularFace(m=m), t): (-t + math.sqrt(t * t + 4 * target)) / 2 if target > 0 else None,
    }
    for (margin, state), cos_j in on.items():
        if cos_j is not None:
            gap = boundary_gap(
                margin,
                {} if state is None else {"t": state},
                np.array([y]),
                np.array([math.acos(cos_j)]),
            )
            assert gap == pytest.approx([0.0], abs=1e-6), margin.name


def test_losses_of_a_pair():
    cos_y, cos_j = np.array([0.7, 0.7]), np.array([0.1, 0.6])
    target = math.cos(math.acos(0.7) + 0.5)  # 0.27: the first negative is easy, the second hard
    expected = [
        math.log1p(math.exp(64 * (0.1 - target))),
        math.log1p(math.exp(64 * (0.6 * (0.2 + 0.6) - target))),
    ]
    assert pair_loss(CurricularFace(), {"t": 0.2}, cos_y, cos_j) == pytest.approx(
        expected, rel=1e-5
    )
    assert loss_ratio(0.2, 0.7, cos_j)[0] == pytest.approx(
        1.0
    )  # an easy negative counts as in ArcFace


def run(folder, recipe, losses, verdict="converged", verdict_step=None, starred=True):
    folder.mkdir(parents=True)
    lines = []
    for i, loss in enumerate(losses):
        line = {"kind": "train", "step": 10 * (i + 1), "loss": loss, "target_cosine": 0.1 * i}
        if starred:
            line |= {
                "target_cosine_p05": 0.0,
                "target_cosine_p95": 0.5,
                "seconds": 1.0 * i,
                "t": 0.1,
            }
        lines.append(line)
    for step in (0, 10 * len(losses)):
        sets = {"lfw": {"accuracy": 0.5 + step / 1000}}
        lines.append(
            {"kind": "evaluation", "step": step, "verification": sets, "seconds": 0.1 * step}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = summary(recipe=recipe, verdict=verdict, verdict_step=verdict_step)
    (folder / "summary.json").write_text(json.dumps(content.as_dict()))
    return folder


def test_groups(tmp_path):
    a = run(tmp_path / "c/runs/arcface_m=0.3/seed0", "arcface", [3.0])
    b = run(tmp_path / "c/runs/arcface_m=0.3/seed1", "arcface", [3.0])
    c = run(tmp_path / "alone", "cosface", [3.0])
    assert group_runs([tmp_path / "c", c]) == {"arcface m=0.3": [a, b], "cosface": [c]}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no run"):
        group_runs([tmp_path / "empty"])


def test_a_group_has_each_run_once_and_only_seeds_of_one_recipe(tmp_path):
    """Runs with other settings were averaged with the others as if they were seeds."""
    recipe = tiny_recipe(tmp_path)
    runs = [run(tmp_path / name, "tiny", [3.0]) for name in "abc"]
    for folder, change in zip(runs, ("train.seed=1", "train.seed=2", "optim.lr=0.5"), strict=True):
        text = to_toml(override(recipe, [change]))
        (folder / "recipe.toml").write_text(text, encoding="utf-8")
    a, b, _ = runs
    (tmp_path / "link").symlink_to(a)
    assert group_runs([a, b, a, tmp_path / "link"]) == {"tiny": [a, b]}
    assert list(seeds_by_loss([a, b]).values()) == [[a, b]]
    message = (
        r"c and .*a would be taken for seeds .* differ in optim\.lr: 0\.5 instead of 0\.05; draw"
    )
    with pytest.raises(ValueError, match=message):
        seeds_by_loss(runs)


def test_band():
    drawn = band([[(10, 1.0), (20, 2.0)], [(10, 3.0)]])
    assert drawn.steps.tolist() == [10, 20]
    assert drawn.mean.tolist() == [2.0, 2.0]
    assert drawn.std == pytest.approx([math.sqrt(2.0), 0.0])
    assert band([]) is None
    assert band([[]]) is None


def test_convergence_marks_what_went_wrong(tmp_path):
    good = [run(tmp_path / f"good{i}", "curricular", [9.0, 5.0 + i, 2.0]) for i in range(2)]
    bad = run(tmp_path / "bad", "arcface", [9.0, 20.0, 30.0], "collapsed", verdict_step=20)
    old = run(tmp_path / "old", "normface", [4.0, 3.0], starred=False)
    assert read_run(bad).went_wrong_at == 20
    assert read_run(good[0]).went_wrong_at is None
    files = plot_convergence({"a": good, "b": [bad], "c": [old]}, tmp_path / "figures")
    assert {path.name for path in files} == {
        f"{name}.{kind}"
        for name in ("convergence", "curriculum", "gradients")
        for kind in ("png", "svg")
    }
    marked = (tmp_path / "figures" / "convergence.svg").read_text("utf-8")
    assert marked.count('id="went-wrong"') == 2  # in the panels of accuracy and of loss
    again = plot_convergence({"a": good}, tmp_path / "again")
    assert 'id="went-wrong"' not in again[1].read_text("utf-8")


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_one_file_and_escapes(tmp_path):
    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG")
    sections = [
        Prose("a < b"),
        Figure(picture, 'of "c"'),
        Table(
            ["<b>loss</b>", "x"],
            [["<script>", Link("run", 'runs/a b/50%#1?"x')], ["", "2"]],
            "T",
            "note",
        ),
    ]
    write_html(tmp_path / "r.html", "A & B", sections)
    text = (tmp_path / "r.html").read_text("utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert [link.split(",")[0] for link in reader.links] == [
        "data:image/png;base64",
        "p.png",
        "runs/a%20b/50%25%231%3F%22x",
    ]
    assert "http" not in text.replace("<!doctype html>", "").replace("</html>", "")
    assert {"<script>", "<b>loss</b>", "a < b", "A & B"} <= set(reader.text)
    assert reader.tags.count("script") == 1
    assert reader.tags.count("tr") == 3


@pytest.mark.parametrize("name", ["modulation", "boundaries", "collapse"])
def test_commands(tmp_path, name):
    done = CliRunner().invoke(
        cli.app, ["plot", name, "--out", str(tmp_path)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png", f"{name}.svg"}
