"""`schedule.loss`: what its entries mean, and that a stage is the very loss that it names."""

import json
import shutil

import pytest
import torch
from rich.console import Console
from tiny_run import checkpoint_at, tiny_recipe

from fusedface.kernels import ArcFace, CurricularFace, NormFace, SelfPaced
from fusedface.models import MarginHead
from fusedface.recipes.compare.plan import plan
from fusedface.recipes.configuration.loss_stages import stages_of
from fusedface.recipes.configuration.settings import override, read_recipe
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.report import curves
from fusedface.recipes.report.curves import plot_curves
from fusedface.recipes.run import run_recipe
from fusedface.recipes.run_directory.reader import read_run
from fusedface.recipes.run_directory.rejudge import rejudge
from fusedface.recipes.training.loss_schedule import LossSchedule

pytestmark = pytest.mark.usefixtures("short_networks")

OWN = CurricularFace(m=0.4, s=32.0)


def test_entries():
    stages = stages_of(["0.1 s=8", "0.25 m=0 s=16", "0.5 normface", "0.75 ArcFace m=0.2"], OWN)
    assert [stage.until for stage in stages] == [0.1, 0.25, 0.5, 0.75, 1.0]
    assert [stage.margin for stage in stages] == [
        CurricularFace(m=0.4, s=8.0), CurricularFace(m=0.0, s=16.0), NormFace(s=32.0),
        ArcFace(m=0.2, s=32.0), OWN,
    ]  # fmt: skip
    assert stages_of([], OWN) == [(1.0, OWN, "curricularface", None)]
    assert stages_of(["0.9 cosine>0.25 m=0.1 s=8"], OWN)[0] == (
        0.9, CurricularFace(m=0.1, s=8.0), "m=0.1 s=8", 0.25,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["0.2"], "entries such as"),
        ([""], "entries such as"),
        (["s=16"], "entries such as"),
        (["nan s=16"], "entries such as"),
        (["0 s=16"], "entries such as"),
        (["1.0 s=16"], "entries such as"),
        (["0.3 s=16", "0.3 s=32"], "rising fractions"),
        (["0.3 s=16", "0.2 s=32"], "rising fractions"),
        (["0.3 normfase"], "no margin 'normfase'; did you mean 'normface'"),
        (["0.3 t=2"], "curricularface has no setting 't'"),
        (["0.3 normface m=2"], "normface has no setting 'm'"),
        (["0.3 s=x"], "s must be a number, got 'x'"),
        (["0.3 s=-1"], "s must be"),
        (["0.3 s="], "s must be a number"),
        (["0.3 cosine>0.2"], "entries such as"),
        (["0.3 cosine>x s=8"], "must be followed by a cosine"),
        (["0.3 cosine>1 s=8"], "must be followed by a cosine"),
        (["cosine>0.2 s=8"], "entries such as"),
    ],
)
def test_bad_entries_are_refused(entries, message):
    with pytest.raises(ValueError, match=message) as caught:
        stages_of(entries, OWN)
    assert str(caught.value).startswith("schedule.loss")


def test_a_stage_holds_below_its_fraction():
    losses = LossSchedule(stages_of(["0.25 s=1", "0.5 s=2"], OWN), num_steps=10)
    assert [losses(step).margin.s for step in range(10)] == [1, 1, 1, 2, 2, 32, 32, 32, 32, 32]
    assert losses.last_begins == 5
    assert LossSchedule(stages_of([], OWN), 10).last_begins == 0


def test_a_condition_ends_a_stage_sooner():
    stages = stages_of(["0.2 s=1", "0.5 cosine>0.3 s=2", "0.8 cosine>-0.5 s=4"], OWN)
    losses = LossSchedule(stages, num_steps=20)
    scales = lambda: [losses(step).margin.s for step in range(0, 20, 2)]  # noqa: E731
    assert scales() == [1, 1, 2, 2, 2, 4, 4, 4, 32, 32]
    assert losses.look(2, 0.9) is None  # the first stage has no condition
    assert losses.look(6, 0.3) is None  # not above
    assert losses.look(8, 0.31) is stages[1]
    assert losses.look(8, 0.31) is None  # the next stage has made no step yet
    assert scales() == [1, 1, 2, 2, 4, 4, 4, 4, 32, 32]
    assert losses.look(10, -0.4) is stages[2]
    assert (losses.ended, losses.last_begins) == ({1: 8, 2: 10}, 10)
    assert scales() == [1, 1, 2, 2, 4, 32, 32, 32, 32, 32]


def test_a_head_goes_on_with_another_margin_and_drops_no_state():
    head = MarginHead(8, 5, CurricularFace(), weighting=SelfPaced())
    names = {name for name, _ in head.named_buffers()}
    head.get_buffer("t").fill_(0.5)
    head.set_margin(NormFace())
    assert set(head.state) == names - {"t"}
    assert {name for name, _ in head.half().named_buffers()} == names
    assert all(buffer.dtype == torch.float32 for buffer in head.buffers())
    head.set_margin(CurricularFace())
    assert head.state["t"] == 0.5


def train(faces, out, *settings, console=None):
    kept = ("train.checkpoint_every=3", "train.keep_checkpoints=9", "evaluation.every=0")
    recipe = override(tiny_recipe(faces), [*kept, *settings])
    run_recipe(recipe, out, device="cpu", console=console or Console(quiet=True))
    return lambda step: checkpoint_at(out, step)


def test_each_stage_trains_with_its_own_loss(faces, tmp_path):
    """The first half of a run is, bit for bit, a run with that loss; the second is not."""
    staged = train(faces, tmp_path / "staged", "schedule.loss=0.5 arcface m=0.2 s=8")
    plain = train(
        faces, tmp_path / "plain", "head.margin=arcface", "head.margin.m=0.2", "head.margin.s=8"
    )
    for step, is_same in ((3, True), (6, True), (9, False)):
        ours, theirs = staged(step), plain(step)
        assert all(torch.equal(ours["model"][k], v) for k, v in theirs["model"].items()) == is_same
        assert torch.equal(ours["head"]["weight"], theirs["head"]["weight"]) == is_same
    assert staged(6)["head"]["t"] == 0.0  # CurricularFace's begins when it is trained with
    assert staged(9)["head"]["t"] != 0.0


def test_stages_are_shown_logged_and_drawn(faces, tmp_path):
    from io import StringIO

    stream = StringIO()
    console = Console(file=stream, width=400)
    train(faces, tmp_path / "run", "schedule.loss=0.5 normface s=8", console=console)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    stages = [line["stage"] for line in lines if line["kind"] == "train"]
    assert stages == ["normface s=8"] * 3 + ["curricularface"] * 3
    assert "of normface s=8" in stream.getvalue()
    assert curves._stages(read_run(tmp_path / "run").train) == [(6, "curricularface")]
    plot_curves(tmp_path / "run")
    assert "curricularface" in (tmp_path / "run" / "curves.svg").read_text("utf-8")


def test_a_schedule_is_part_of_the_loss_that_a_comparison_compares(tmp_path):
    recipes = [get_recipe(f"mobilefacenet-arcface{kind}") for kind in ("", "-scale-warmup")]
    assert recipes[0].head == recipes[1].head
    runs = plan(recipes, 1, None, tmp_path)
    assert [run.recipe.schedule.loss for run in runs] == [(), ("0.1 s=16", "0.2 s=32")]
    swept = plan(recipes, 1, "m=0.3,0.5", tmp_path)
    assert len(swept) == 4


def test_a_condition_ends_a_stage_in_a_run_and_a_resumed_run_repeats_it(faces, tmp_path):
    """The cosine above which it ends is that of a line of the run itself, so no rounding decides."""
    free = tmp_path / "free"
    train(faces, free, "schedule.loss=0.9 arcface m=0.2 s=8")
    cosines = [line["target_cosine"] for line in read_run(free).train]
    chosen = next(i for i in range(1, 4) if cosines[i] > max(cosines[:i]))
    bound = (cosines[chosen] + max(cosines[:chosen])) / 2
    setting = f"schedule.loss=0.9 cosine>{bound!r} arcface m=0.2 s=8"
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    weights = train(faces, whole, setting)
    step = 2 * (chosen + 1)
    lines = read_run(whole).train
    assert [line["stage"] for line in lines[: chosen + 2]] == [
        *["arcface m=0.2 s=8"] * (chosen + 1),
        "curricularface",
    ]
    assert weights(9)["progress"]["stages_ended"] == {0: step}
    assert rejudge(whole).now.verdict == rejudge(whole).before

    shutil.copytree(whole, parted)
    for number in (12, 9):  # back to a checkpoint after the switch
        (parted / "checkpoints" / f"step-{number:08d}.pt").unlink(missing_ok=number == 12)
    (parted / "summary.json").unlink()
    recipe = read_recipe(parted / "recipe.toml")
    run_recipe(recipe, parted, resume=True, device="cpu", console=Console(quiet=True))
    again = checkpoint_at(parted, 12)
    for name, tensor in weights(12)["model"].items():
        assert torch.equal(again["model"][name], tensor), name
    assert again["progress"]["stages_ended"] == {0: step}

    other = override(recipe, ["schedule.loss=0.9 s=16"])  # ends later than the one that has ended
    (parted / "checkpoints" / "step-00000012.pt").unlink()
    (parted / "summary.json").unlink()
    options = {"device": "cpu", "console": Console(quiet=True)}
    run_recipe(other, parted, resume=True, allow_change=["schedule.loss"], **options)
    assert [line.get("stage") for line in read_run(parted).train][4] == "s=16"
