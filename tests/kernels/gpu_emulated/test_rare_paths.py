"""Paths that few batches take, as compiled: error budgets of whole steps, and no line that never runs."""

import pytest
import rare_batches
from emulated_head import CAPABILITIES, emulated, hold, references, step
from margin_oracle import without_form
from ptx_emulator import Options
from ptx_emulator.profiles import lines_not_run

from fusedface.kernels import ArcFace, CurricularFace, MVArc

pytestmark = pytest.mark.slow
ALL = pytest.mark.exhaustive
CASES = [
    (128, "bfloat16"),
    (512, "tf32"),
    pytest.param(128, "tf32", marks=ALL),
    pytest.param(512, "bfloat16", marks=ALL),
]
MARGINS = [
    CurricularFace(),
    pytest.param(MVArc(t=1.2), marks=ALL),
    pytest.param(ArcFace(), marks=ALL),
]


def within_budget(problem, options, precision):
    with emulated(90, Options(check_races=True)):
        results = step(problem, precision, **options)
    hold(results, *references(problem, precision, **options))


@pytest.mark.parametrize(("dim", "precision"), CASES)
@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: margin.name)
def test_repeated_labels(margin, dim, precision):
    within_budget(*rare_batches.repeated_labels(margin, dim), precision)


@pytest.mark.parametrize(("dim", "precision"), CASES)
@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: margin.name)
def test_rows_that_are_summed_again(margin, dim, precision):
    within_budget(*rare_batches.rows_summed_again(margin, dim), precision)


@pytest.mark.parametrize("dim", [128, pytest.param(512, marks=ALL)])
@pytest.mark.parametrize("how", ["exponentials kept", "a margin without a form"])
def test_rows_that_are_summed_again_by_other_kernels(how, dim):
    """Exponentials are written again, too; `combine_kernel` is the plain path's."""
    problem, options = rare_batches.rows_summed_again(CurricularFace(), dim)
    expected = references(problem, "bfloat16", **options)
    more = {"keep_exponentials": True}
    if how == "a margin without a form":
        problem, more = (without_form(problem[0]), *problem[1:]), {}
    with emulated(90, Options(check_races=True)) as runs:
        results = step(problem, "bfloat16", **options, **more)
    hold(results, *expected)
    ran = {"exponentials kept": "finish_kernel", "a margin without a form": "combine_kernel"}[how]
    assert ran in {run.name for run in runs}
    assert not [line for line in lines_not_run(runs) if line.startswith(ran)]


@pytest.mark.parametrize(("dim", "precision"), CASES)
@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: margin.name)
def test_gradients_that_push_the_loss_up(margin, dim, precision):
    within_budget(*rare_batches.loss_pushed_up(margin, dim), precision)


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{}".format)
@pytest.mark.parametrize(("dim", "precision"), CASES)
@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: margin.name)
def test_every_line_runs(margin, dim, precision, capability):
    """Gate 5: with these batches each line that a kernel was compiled from.

    So flagged and unflagged tiles, repeated labels, factors a <= 0 and rows that are summed again are among
    what the tests above hold against float64.
    """
    again, summed = rare_batches.rows_summed_again(margin, dim)
    batches = [
        rare_batches.repeated_labels(margin, dim),
        (again, summed),
        (again, {"reduction": "none"}),
        rare_batches.loss_pushed_up(margin, dim),
    ]
    launches = []
    for problem, options in batches:
        with emulated(capability) as runs:
            step(problem, precision, **options)
        launches += runs
    finishing = [run for run in launches if run.name == "finish_kernel"]
    assert len(finishing) == len(batches)
    assert all(run.constants["FIXED"] for run in finishing)
    missed = lines_not_run(launches)
    print(f"gate 5  sm_{capability}, D = {dim}, {precision}: lines that never run: {len(missed)}")
    assert not missed
