"""`plot ...`: draw figures of runs and of the losses."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusedface.recipes.host.terminal import say

app = typer.Typer(help="Figures, as PNG and SVG.", no_args_is_help=True)

OutOption = Annotated[Path, typer.Option("--out", help="The folder to write to.")]


@app.command("convergence")
def plot_convergence(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders of runs such as a comparison.")
    ],
    out: OutOption = Path("figures"),
) -> None:
    """Plot accuracy, loss, cosines, t, modulation and gradients; bands show the seeds of each loss."""
    from fusedface.recipes.report import convergence
    from fusedface.recipes.report.named_groups import seeds_by_loss

    _told(convergence.plot_convergence(seeds_by_loss(runs), out))


@app.command("modulation")
def plot_modulation(out: OutOption = Path("figures")) -> None:
    """Plot the weight of a hard negative in each loss, early and late (the paper's Fig. 1 and 3)."""
    from fusedface.recipes.report import margins

    margins.plot_modulation(out / "modulation.png")
    _told([out / "modulation.png", out / "modulation.svg"])


@app.command("boundaries")
def plot_boundaries(out: OutOption = Path("figures")) -> None:
    """Plot the decision boundaries of the losses, early and late (the paper's Fig. 4 and Table 1)."""
    from fusedface.recipes.report import margins

    margins.plot_boundaries(out / "boundaries.png")
    _told([out / "boundaries.png", out / "boundaries.svg"])


@app.command("collapse")
def plot_collapse(out: OutOption = Path("figures")) -> None:
    """Plot each loss against a target cosine that all classes share, as in a collapsed network."""
    from fusedface.recipes.report import collapse

    collapse.plot_collapse(out / "collapse.png")
    _told([out / "collapse.png", out / "collapse.svg"])


@app.command("phase")
def plot_phase(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run directories; without any only the losses are drawn."),
    ] = None,
    out: OutOption = Path("figures"),
) -> None:
    """Plot the rate at which each loss moves a cosine common to all classes, and the path of runs."""
    from fusedface.recipes.report import phase

    phase.plot_phase(runs or [], out / "phase.png")
    _told([out / "phase.png", out / "phase.svg"])


def _told(files: list[Path]) -> None:
    console = Console()
    for file in files:
        say(console, f"wrote {file}")
