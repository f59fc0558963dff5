"""Groups of runs under short names of their losses."""

from collections.abc import Mapping
from pathlib import Path

from fusedface.recipes.configuration.settings import read_recipe
from fusedface.recipes.report.names import short_names
from fusedface.recipes.run_directory.directory import RECIPE


def with_short_names(groups: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """The groups under the short names of the losses, if all runs have a recipe; else unchanged."""
    files = {label: folders[0] / RECIPE for label, folders in groups.items()}
    if not all(file.is_file() for file in files.values()):
        return dict(groups)
    names = short_names({label: read_recipe(file) for label, file in files.items()})
    return {names[label]: folders for label, folders in groups.items()}
