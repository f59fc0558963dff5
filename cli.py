"""The command line; `commands/` has its groups of commands.

python cli.py recipe run mobilefacenet-curricular
python cli.py --help
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Annotated

INSTALL = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ."

MISSING = (
    "{}. FusedFace is not installed in this Python. In the folder of cli.py, run\n"
    f"  {INSTALL}\nand then .venv/bin/python cli.py"
)

try:
    import typer
    from typer.core import TyperGroup

    import fusedface
    from fusedface.commands import (
        bench,
        bench_results,
        bench_scaling,
        bench_training,
        compare,
        data,
        doctor,
        evaluate,
        export,
        faces,
        plot,
        recipe,
    )
    from fusedface.recipes.host.terminal import bounded, print_error, visible
except ModuleNotFoundError as error:
    sys.exit(MISSING.format(error))
if find_spec("torch") is None:  # commands import torch later, so that --help is fast
    sys.exit(MISSING.format("No module named 'torch'"))


class Commands(TyperGroup):
    """The commands. Empty arguments are refused, and messages of click are made safe to print."""

    def main(self, args: Sequence[str] | None = None, *more, **options):
        """Run the command that `args` name."""
        given = list(sys.argv[1:] if args is None else args)
        refuse_empty(given)
        return super().main(given, *more, **options)

    def invoke(self, ctx):
        """Run a command; escape control characters in messages about its arguments."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            _escape(error)
            raise


def _escape(error: Exception) -> None:
    """Escape control characters in an error of click, whichever package provides it."""
    if hasattr(error, "format_message"):
        for name in ("message", "option_name", "filename", "ui_filename"):
            if isinstance(text := getattr(error, name, None), str):
                setattr(error, name, bounded(visible(text)))


def refuse_empty(arguments: Sequence[str]) -> None:
    """Raise ValueError for an empty argument, because an empty path would mean the current folder."""
    for before, argument in pairwise(["", *arguments]):
        if (name := _empty(argument, before)) is not None:
            raise ValueError(f"{name} is empty; give a value, or . for the current folder")


def _empty(argument: str, before: str) -> str | None:
    """What is empty in an argument, from it and the one before; None if nothing is."""
    option, equals, value = argument.partition("=")
    if equals and option.startswith("--") and not value.strip():
        return option
    if argument.strip():
        return None
    return before if before.startswith("--") else "an argument"


app = typer.Typer(
    cls=Commands,
    help="Train and compare margin-softmax losses for face recognition.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
recipe.app.command("compare")(compare.compare_recipes)
recipe.app.command("study")(compare.study_figures)
recipe.app.command("map")(compare.map_sinking)
bench.app.command("scaling")(bench_scaling.measure_growth)
bench.app.command("ranks")(bench_scaling.time_processes)
bench.app.command("step")(bench_training.time_step)
bench.app.command("trained-step")(bench_training.time_trained_step)
bench.app.command("unknowns")(bench_training.measure_unknowns)
bench.app.command("data")(bench_training.time_data)
bench.app.command("convergence")(bench_training.compare_convergence)
bench.app.command("compare")(bench_results.compare_results)
bench.app.command("readme")(bench_results.write_readme)
app.add_typer(recipe.app, name="recipe")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(plot.app, name="plot")
app.command()(evaluate.evaluate)
app.command()(faces.embed)
app.command()(faces.verify)
app.command()(faces.identify)
app.command()(export.export)
app.command()(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        import torch

        typer.echo(f"fusedface {fusedface.__version__}, torch {torch.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print versions."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a mistake of the user ends in one message without a traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        from fusedface.recipes.host.watch import speaks

        if speaks(error):
            print_error(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
