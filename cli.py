"""The command line; its groups of commands are in `commands/`.

python cli.py recipe run mobilefacenet-curricular
python cli.py --help
"""

import sys
from typing import Annotated

INSTALL = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ."

try:
    import torch
    import typer

    import fusedface
    from fusedface.commands import bench, data, doctor, evaluate, export, plot, recipe
    from fusedface.recipes.terminal import print_error
except ModuleNotFoundError as error:
    sys.exit(
        f"{error}. FusedFace is not installed in this Python. In the folder of cli.py, run\n"
        f"  {INSTALL}\nand then .venv/bin/python cli.py"
    )

app = typer.Typer(
    help="Train and compare margin-softmax losses for face recognition.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(recipe.app, name="recipe")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(plot.app, name="plot")
app.command()(evaluate.evaluate)
app.command()(export.export)
app.command()(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
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
    """Run the command line; a user's mistake is one message, not a traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        print_error(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
