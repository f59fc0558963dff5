"""Judges finished runs again by the current rules, from their files; writes nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fusedface.recipes.configuration.loss_stages import stages_of
from fusedface.recipes.configuration.settings import read_recipe
from fusedface.recipes.host.terminal import Table, plain
from fusedface.recipes.run_directory.directory import RECIPE
from fusedface.recipes.run_directory.metrics import FILE, read_metrics
from fusedface.recipes.run_directory.summary import SUMMARY, VERDICT_COLOURS, Summary, read_summary
from fusedface.recipes.run_directory.verdict import Judgement, judge

if TYPE_CHECKING:
    from fusedface.kernels import Margin


class Rejudged(NamedTuple):
    """A run, its saved verdict, and its verdict by the current rules."""

    folder: Path
    before: str
    now: Judgement


def rejudge(folder: Path) -> Rejudged:
    """Judge a run again.

    Args:
        folder: its directory.

    Raises:
        ValueError: it has no summary, or one of its files is damaged; or the summary lacks what the margin
            depends on.
    """
    if not (folder / SUMMARY).is_file():
        raise ValueError(
            f"{folder} holds no {SUMMARY}: the run has not ended, so there is no verdict"
        )
    summary, recipe = read_summary(folder / SUMMARY), read_recipe(folder / RECIPE)
    stages = stages_of(recipe.schedule.loss, recipe.head.margin)
    lines = read_metrics(folder / FILE)
    how = summary.verdict if summary.verdict in ("interrupted", "non_finite") else "finished"
    found = judge(
        lines,
        ended=how,
        end_message=summary.message,
        end_step=summary.verdict_step or summary.steps,
        margin=_margin(recipe.head.margin, summary, folder / SUMMARY),
        num_classes=summary.num_identities,
        margin_begins=_last_step_before(stages[-1].text, lines),
        from_weights=bool(summary.init),
        target_gradient=recipe.head.target_gradient,
        warmup_steps=recipe.schedule.warmup_steps,
    )
    return Rejudged(folder, summary.verdict, found)


def _margin(margin: "Margin", summary: Summary, path: Path) -> "Margin":
    """The margin of a run's head, which is told the sizes of the classes if it depends on them."""
    if getattr(margin, "class_counts", None) != ():  # it does not, or has its own
        return margin
    sizes = summary.class_sizes
    if not sizes:
        raise ValueError(
            f"{path} is of an earlier version: it does not say how many images each person has, which the "
            f"loss {margin.name} needs"
        )
    is_whole = all(size.isdecimal() and type(n) is int and n > 0 for size, n in sizes.items())
    if not is_whole or sum(sizes.values()) != summary.num_identities:
        raise ValueError(f"{path} is damaged: class_sizes are not those of its num_identities")
    counts = (int(size) for size, number in sizes.items() for _ in range(number))
    return margin.with_class_counts(tuple(counts))


def _last_step_before(stage: str, lines: Sequence[dict[str, Any]]) -> int:
    """The last step that metrics have before the last stage of the loss; 0 if it is the only one."""
    return max((line["step"] for line in lines if line.get("stage", stage) != stage), default=0)


def find_runs(folders: list[Path]) -> list[Path]:
    """The run directories among and inside these folders.

    Raises:
        ValueError: a folder contains no run directory.
    """
    found: list[Path] = []
    for folder in folders:
        runs = sorted(path.parent for path in folder.rglob(FILE))
        if not runs:
            raise ValueError(f"{folder} holds no run: there is no {FILE} in it")
        found += runs
    return list(dict.fromkeys(found))


def judgement_table(runs: list[Rejudged]) -> Table:
    """One row per run: both verdicts and the reason."""
    table = Table("", ["run", "verdict given", "by today's rules", "why"])
    for run in runs:
        now = plain(run.now.verdict, VERDICT_COLOURS[run.now.verdict])
        before = plain(run.before, VERDICT_COLOURS[run.before])
        table.add_row(str(run.folder), before, now, run.now.message)
    return table
