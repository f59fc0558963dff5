"""`bench compare` and `bench readme`: use existing results."""

from pathlib import Path
from typing import Annotated

import typer

from fusedface.commands.bench_options import wide_console


def compare_results(
    old: Annotated[Path, typer.Argument(help="A result, of --out.")],
    new: Annotated[Path, typer.Argument(help="Another one of the same benchmark.")],
) -> None:
    """Compare two results of a benchmark row by row: faster or slower."""
    from fusedface.bench import tables
    from fusedface.bench.compare import compare

    tables.print_changes(*compare(old, new), wide_console())


def write_readme() -> None:
    """Rewrite the tables of README.md and docs/benchmarks.md from bench/results/*.json."""
    from fusedface.bench import markdown
    from fusedface.recipes.host.program import ROOT, is_checkout

    if not is_checkout():
        raise ValueError(
            f"bench readme writes README.md and docs/benchmarks.md of a checkout, and {ROOT} is an "
            "installed package that has neither; run it in a clone of the repository"
        )
    found = markdown.documents()
    markdown.rewrite(ROOT / "README.md", markdown.readme(found))
    markdown.rewrite(ROOT / "docs" / "benchmarks.md", markdown.full(found))
