"""The cures of sinking: what each changes, which change nothing, and what a report says of the best."""

import io
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from small_models import shortened
from tiny_run import tiny_recipe, write_faces

from fusedface.kernels import ArcFace, CosFace, CurricularFace, MVArc, NormFace
from fusedface.recipes.compare import compare as compare_module
from fusedface.recipes.compare import page
from fusedface.recipes.compare.best import best_of_each, best_sentence, best_table
from fusedface.recipes.compare.compare import compare
from fusedface.recipes.compare.cures import cures
from fusedface.recipes.compare.headline import headline
from fusedface.recipes.compare.paired import PairedTest, Spread
from fusedface.recipes.compare.plan import plan
from fusedface.recipes.compare.protocols import PAPER_SET, PROTOCOLS, with_settings
from fusedface.recipes.compare.statistics import LossResult
from fusedface.recipes.compare.texts import cure_of, loss_of
from fusedface.recipes.configuration.loss_stages import stages_of
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.report.names import short_names
from fusedface.recipes.run import run_recipe
from fusedface.recipes.run_directory.reader import read_run

ALL = ["", "scale warm-up", "margin warm-up", "softmax first", "straight-through", "half scale"]


@pytest.mark.parametrize("protocol", ["small", "short", "casia"])
def test_the_paper_set_with_its_cures(tmp_path, protocol):
    recipes = with_settings([get_recipe(name) for name in PAPER_SET], PROTOCOLS[protocol])
    runs = plan(recipes, 1, None, tmp_path, cures=True)
    by_loss = {}
    for run in runs:
        by_loss.setdefault(loss_of(run.label), []).append(cure_of(run.label))
    assert list(by_loss) == list(PAPER_SET)
    # Without a margin there is none to raise, nothing to begin without, and no slope to leave out.
    assert by_loss.pop("mobilefacenet-normface") == ["", "scale warm-up", "half scale"]
    assert all(cures == ALL for cures in by_loss.values())
    assert len({run.folder for run in runs}) == len(runs) == 33
    assert len(set(short_names({run.label: run.recipe for run in runs}).values())) == 33


def test_what_each_cure_changes(tmp_path):
    plain = get_recipe("mobilefacenet-mvarc-t1.2")
    made = {cure_of(run.label): run.recipe for run in plan([plain], 1, None, tmp_path, cures=True)}
    assert made[""] == plain
    stages = {
        cure: [(s.until, s.margin, s.above) for s in stages_of(r.schedule.loss, r.head.margin)]
        for cure, r in made.items()
    }
    own = MVArc(m=0.5, t=1.2, s=64.0)
    last = (1.0, own, None)
    assert stages["scale warm-up"] == [
        (0.1, replace(own, s=16.0), None), (0.2, replace(own, s=32.0), None), last,
    ]  # fmt: skip
    assert stages["margin warm-up"] == [
        (0.1, replace(own, m=0.0), None), (0.2, replace(own, m=0.25), None), last,
    ]  # fmt: skip
    (until, first, above), head = stages["softmax first"]
    assert (until, first, head) == (0.9, NormFace(s=64.0), last)
    assert above == pytest.approx(math.sin(0.25), abs=5e-4)
    straight = replace(plain.head, target_gradient="straight_through")
    assert made["straight-through"].head == straight
    assert made["half scale"].head.margin == replace(own, s=32.0)


def test_cosface_has_the_slope_1_already():
    assert list(cures(CosFace(m=0.35))) == [c for c in ALL if c not in ("", "straight-through")]


def result(label, final, difference=None):
    spread = None if difference is None else Spread(difference, 0.002, 5)
    test = spread and PairedTest(spread, 0.1, 0.2, (difference - 0.0025, difference + 0.0025), 0.8)
    nothing = dict.fromkeys(("best", "tar", "far", "ms_per_step", "peak_memory_mib"))
    final = None if final is None else Spread(final, 0.003, 5)
    return LossResult(
        label=label, margin="", verdicts={"converged": 5}, final=final, cosine=Spread(0.4, None, 5),
        steps_to=(), against=test, **nothing,
    )  # fmt: skip


def test_the_best_cured_arcface_is_named():
    losses = [
        replace(result("c", 0.9), is_reference=True),
        result("a + half scale", 0.89, 0.01), result("c + half scale", 0.88, 0.02),
        result("a", 0.7, 0.2), result("n", 0.6, 0.3), result("a + softmax first", None),
    ]  # fmt: skip
    assert {k: [x.label for x in v] for k, v in best_of_each(losses).items()} == {
        "c": ["c", "c + half scale"], "a": ["a + half scale", "a"],
    }  # fmt: skip
    names = {"c": "CurricularFace", "a": "ArcFace", "a + half scale": "ArcFace, s = 32", "n": "N"}
    table = best_table(losses, names, "c")
    assert [list(row[:5]) for row in table.rows] == [
        ["CurricularFace", "none", "2", "90.00 ± 0.30", "0.40"],
        ["ArcFace", "half scale", "2", "89.00 ± 0.30", "0.40"],
    ]
    assert table.rows[0][5] == "reference"
    assert list(table.rows[1][5:]) == ["+1.00", "+0.75 to +1.25", "+0.8"]
    assert best_sentence(losses, names, "c") == (
        "ArcFace is best with half scale; CurricularFace less this is +1.00 points (5 seeds, 95 % interval "
        "+0.75 to +1.25)."
    )
    one_seed = result("c + softmax first", 0.95)
    one_seed = replace(one_seed, final=Spread(0.95, None, 1))
    assert best_of_each([one_seed, *losses])["c"][0].label == "c"  # an easy seed proves nothing
    assert headline([one_seed, losses[0]], names | {one_seed.label: "?"}, "c")[0] == (
        "CurricularFace ends highest: 90.0 ± 0.3 % (5 seeds)."
    )
    assert best_sentence([losses[0], losses[3]], names, "c") == ""  # no cure was run
    assert best_table([losses[0], losses[3]], names, "c") is None


def run_here(todo, jobs, device, on_poll, may_begin):
    """In the place of `pool.run_all`: without other processes, which take seconds to start."""
    for run in todo:
        run_recipe(run.recipe, run.folder, device=device, console=Console(quiet=True))


def test_a_study_goes_on_from_its_file(tmp_path, monkeypatch):
    """Two runs are kept in a file; elsewhere they are read from it, and only the third is trained."""
    shortened(monkeypatch)
    monkeypatch.setattr(page, "write_page", lambda results, losses, out: out / "report.html")
    base = replace(tiny_recipe(write_faces(tmp_path)))
    base = replace(base, schedule=replace(base.schedule, epochs=1.5))
    recipes = [
        replace(base, name=f"tiny-{m.name}", head=replace(base.head, margin=m))
        for m in (CurricularFace(m=0.3, s=16.0), ArcFace(s=16.0), NormFace(s=16.0))
    ]
    monkeypatch.setattr(compare_module, "run_all", run_here)
    study, stream = tmp_path / "study" / "runs.json", io.StringIO()
    options = {"num_seeds": 1, "jobs": 1, "device": torch.device("cpu"), "study": study}
    console = Console(file=stream, width=250)
    first = compare(recipes[:2], tmp_path / "one", console=console, **options)
    text = study.read_text()
    assert text.count('"verdict"') == 2
    second = compare(recipes, tmp_path / "two", console=console, **options)
    assert "2 finished runs are taken from" in stream.getvalue()
    assert "3 runs, 2 of them done before" in stream.getvalue()
    for loss in first:
        again = next(x for x in second if x.label == loss.label)
        assert (again.final, again.verdicts, again.cosine.count) == (loss.final, loss.verdicts, 1)
        assert again.cosine.mean == pytest.approx(loss.cosine.mean, rel=1e-4)
    assert study.read_text().startswith(text[: text.rindex("]") - 2])  # the first two as they were
    assert study.read_text().count('"verdict"') == 3

    (folder,) = (tmp_path / "two" / "runs").glob("*curricular*/seed5")
    assert all("seconds" in line for line in read_run(folder).evaluations)

    longer = [replace(r, schedule=replace(r.schedule, epochs=2.0)) for r in recipes]
    with pytest.raises(ValueError, match=r"seed 5: another recipe[\s\S]*Check out its revision"):
        compare(longer, tmp_path / "three", console=console, **options)
    monkeypatch.setattr(compare_module, "inputs_of", lambda *_: {"code": "other"})
    with pytest.raises(ValueError, match=r"sources .* instead of other"):
        compare(recipes, tmp_path / "four", console=console, **options)
    study.write_text("[]")
    with pytest.raises(ValueError, match="not a file of a study"):
        compare(recipes, tmp_path / "five", console=console, **options)


def test_no_run_begins_after_the_time(tmp_path):
    folder, stream = write_faces(tmp_path), io.StringIO()
    recipes = [
        replace(tiny_recipe(folder), name=n, head=replace(tiny_recipe(folder).head, margin=m))
        for n, m in (("c", CurricularFace()), ("a", ArcFace()))
    ]
    found = compare(
        recipes, tmp_path / "out", num_seeds=1, jobs=1, minutes=0.0, device=torch.device("cpu"),
        console=Console(file=stream, width=250),
    )  # fmt: skip
    assert found is None
    assert "2 of 2 runs are still to do" in stream.getvalue()
