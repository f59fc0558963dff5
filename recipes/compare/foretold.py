"""The predictions of the law of sinking for the runs of a comparison, and the results (docs/losses.md)."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from fusedface.kernels.sinking import CRITERION_STEPS, learns_above, pace
from fusedface.recipes.compare.results import RunResult
from fusedface.recipes.compare.statistics import by_label
from fusedface.recipes.configuration.loss_stages import stage_named, stages_of
from fusedface.recipes.report.html import Table, Tags
from fusedface.recipes.run_directory.reader import Line

NOTE = (
    "F0 = N' - T' at cosine 0: above 0 the loss pulls all cosines down together, in 1/beta steps. The law "
    "says that a run learns if its target cosine is above F0/2 at the step named. Means over seeds; where "
    "a loss has stages, F0 is that of the stage of that step."
)


def foretold_table(results: Sequence[RunResult], names: Mapping[str, str]) -> Table:
    """One row per loss: F0, its pace 1/beta, the criterion, and the final target cosine."""
    recipe = results[0].run.recipe
    step = recipe.schedule.warmup_steps + CRITERION_STEPS
    rows = [[names[label], *_row(runs, step)] for label, runs in by_label(results).items()]
    asked = f"target cosine, step {step}"
    columns = ["loss", "F0", "1/beta, steps", "F0/2", asked, "said", "target cosine, end"]
    return Table(columns, rows, "What the law of sinking said", NOTE)


def _row(runs: Sequence[RunResult], step: int) -> list[str | Tags]:
    recipe = runs[0].run.recipe
    head, schedule = recipe.head, recipe.schedule
    found = [line for run in runs if (line := _line(run, step)) is not None]
    stages = stages_of(schedule.loss, head.margin)
    text = found[0].get("stage") if found else stages[0].text
    margin = stage_named(stages, text).margin
    gap = margin.slope_gap(target_gradient=head.target_gradient)
    above = learns_above(margin, head.target_gradient)
    ends = [run.train[-1]["target_cosine"] for run in runs if run.train]
    asked = fmean(line["target_cosine"] for line in found) if found else None
    said = Tags([("-", "")])
    if asked is not None:
        learns = above is None or asked > above
        said = Tags([("learns", "green") if learns else ("sinks", "red")])
    return [
        f"{gap:.2f}",
        _pace(found, runs, margin.s),
        "-" if above is None else f"{above:.3f}",
        "-" if asked is None else f"{asked:.3f}",
        said,
        f"{fmean(ends):.2f}" if ends else "-",
    ]


def _line(run: RunResult, step: int) -> Line | None:
    return next((line for line in run.train if line["step"] >= step), None)


def _pace(lines: Sequence[Line], runs: Sequence[RunResult], s: float) -> str:
    """1/beta at the step of the criterion, if the length of the class centres was measured there."""
    recipe, summary = runs[0].run.recipe, runs[0].summary
    lengths = [line["centre_length"] for line in lines if "centre_length" in line]
    by_sgd = recipe.optim.kind == "sgd" and not recipe.teacher.places_centres
    if not lengths or summary is None or not by_sgd:
        return "-"
    rate = lines[0]["lr"] * recipe.optim.centres_factor
    beta = pace(s, summary.num_identities, fmean(lengths), rate, recipe.optim.momentum)
    return f"{1.0 / beta:,.0f}"
