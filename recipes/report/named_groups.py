"""Groups of runs under short names of their losses."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fusedface.recipes.configuration.settings import changed_settings, read_recipe
from fusedface.recipes.report.names import short_names
from fusedface.recipes.report.runs import group_runs
from fusedface.recipes.run_directory.directory import RECIPE

BESIDES_RESULTS = ("train.seed", "summary")  # settings in which runs of one group may differ
SHOWN_CHANGES = 3


def seeds_by_loss(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Run directories by loss, as `group_runs` finds them, under short names.

    Raises:
        ValueError: a folder has no run, or runs of one loss differ in more than their seed.
    """
    groups = group_runs(folders)
    for runs in groups.values():
        _refuse_unlike(runs)
    return with_short_names(groups)


def with_short_names(groups: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """The groups under the short names of the losses, if all runs have a recipe; else unchanged."""
    files = {label: folders[0] / RECIPE for label, folders in groups.items()}
    if not all(file.is_file() for file in files.values()):
        return dict(groups)
    names = short_names({label: read_recipe(file) for label, file in files.items()})
    return {names[label]: folders for label, folders in groups.items()}


def _refuse_unlike(runs: Sequence[Path]) -> None:
    """Raise ValueError if the recipes of runs differ in more than the seed; some runs may have none."""
    known = [(run, read_recipe(run / RECIPE)) for run in runs if (run / RECIPE).is_file()]
    for run, recipe in known[1:]:
        first, expected = known[0]
        changes = changed_settings(recipe, expected)
        lines = [line for key, line in changes.items() if key not in BESIDES_RESULTS]
        if lines:
            raise ValueError(
                f"{run} and {first} would be taken for seeds of one loss, but differ in "
                f"{'; '.join(lines[:SHOWN_CHANGES])}; draw them in figures of their own"
            )
