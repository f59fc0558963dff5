"""The command line: parse, build a recipe or a case, call one function.

python cli.py recipe run mobilefacenet-curricular
python cli.py --help
"""

import sys
from pathlib import Path
from typing import Annotated

INSTALL = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ."

try:
    import torch
    import typer
    from rich.console import Console
    from rich.table import Table

    import fusedface
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
recipe_app = typer.Typer(help="Recipes: list, show, run.", no_args_is_help=True)
data_app = typer.Typer(help="Faces: look at a source.", no_args_is_help=True)
bench_app = typer.Typer(
    help="Benchmarks: measured side by side, on this machine.", no_args_is_help=True
)
app.add_typer(recipe_app, name="recipe")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")

RecipeName = Annotated[str, typer.Argument(help="A name from `recipe list`, or a recipe.toml.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", help="A folder with a folder per identity, or a list file of 'path label'."
    ),
]
PairsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--pairs", help="A pair list: LFW's pairs.txt, or 'path path same fold'; repeatable."
    ),
]
RootOption = Annotated[
    Path | None, typer.Option("--root", help="The folder the paths of --pairs start from.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, such as optim.lr=0.05; may be repeated."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="Such as cpu or cuda:1; without it a GPU if there is one."),
]


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


@recipe_app.command("list")
def recipe_list() -> None:
    """Every recipe, a line each."""
    from fusedface.recipes.registry import RECIPES, get_recipe

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("recipe", style="bold", no_wrap=True)
    table.add_column("what it trains")
    for name in RECIPES:
        table.add_row(name, get_recipe(name).summary)
    Console().print(table)


@recipe_app.command("show")
def recipe_show(
    recipe: RecipeName, data: DataOption = None, pairs: PairsOption = None, root: RootOption = None,
    settings: SetOption = None,
) -> None:  # fmt: skip
    """A recipe as TOML, with all its settings; the output is a recipe file."""
    from fusedface.recipes.settings import to_toml

    typer.echo(to_toml(_resolve(recipe, data, pairs, root, settings)), nl=False)


@recipe_app.command("run")
def recipe_run(
    recipe: RecipeName,
    data: DataOption = None,
    pairs: PairsOption = None,
    root: RootOption = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The run directory; without it runs/NAME, numbered."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: DeviceOption = None,
) -> None:
    """Train, verify, and leave a run directory with everything in it."""
    from fusedface.recipes.engine.run import run_recipe

    if resume and out is None:
        raise ValueError("--resume needs --out, the run directory to go on with")
    resolved = _resolve(recipe, data, pairs, root, settings)
    folder = out or _free_folder(Path("runs"), resolved.name)
    summary = run_recipe(resolved, folder, resume=resume, device=device)
    raise typer.Exit({"finished": 0, "interrupted": 130}.get(summary.verdict, 1))


@app.command()
def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="Of a run, or a public MobileFaceNet checkpoint.")
    ],
    data: Annotated[
        Path, typer.Option("--data", help="The folder the paths of --pairs start from.")
    ],
    pairs: Annotated[list[Path], typer.Option("--pairs", help="A pair list; may be repeated.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write results.json, roc.png and roc.svg here.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Verify faces with a checkpoint: accuracy, TAR@FAR, AUC, rank-1."""
    from fusedface.recipes.engine.evaluate_checkpoint import evaluate_checkpoint

    evaluate_checkpoint(checkpoint, data, pairs, out, device, Console())


@data_app.command("preview")
def data_preview(
    source: Annotated[
        str, typer.Argument(help="'synthetic', a folder, or a list file.")
    ] = "synthetic",
    out: Annotated[Path, typer.Option("--out", help="The picture to write.")] = Path("preview.png"),
    identities: Annotated[int, typer.Option(help="Rows.")] = 8,
    images: Annotated[int, typer.Option(help="Columns.")] = 8,
    difficulty: Annotated[float, typer.Option(help="Of the synthetic source, 0 to 1.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the synthetic source.")] = 0,
) -> None:
    """Write a contact sheet, a row an identity."""
    from fusedface.data import SyntheticFaces, contact_sheet, open_source

    if source == "synthetic":
        faces = SyntheticFaces(identities, images, difficulty=difficulty, seed=seed)
    else:
        faces = open_source(source)
    contact_sheet(faces, out, num_identities=identities, images_per_identity=images)
    typer.echo(f"wrote {out}: {faces.num_classes} identities, {len(faces)} images in the source")


@bench_app.command("kernels")
def bench_kernels(
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shape", help="BxCxD, such as 256x85742x128; may be repeated."),
    ] = None,
    phases: Annotated[
        str, typer.Option(help="start (all negatives hard), late (few are), or both: start,late.")
    ] = "start,late",
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each, in turn.")] = 9,
    only: Annotated[str, typer.Option(help="Part of the names of the competitors to run.")] = "",
    memory: Annotated[bool, typer.Option(help="Also measure peak extra memory.")] = True,
    out: Annotated[Path | None, typer.Option("--out", help="Write the rows as JSON here.")] = None,
    device: DeviceOption = None,
) -> None:
    """The head, forward and backward, against what one would use instead."""
    from fusedface.bench import kernels, report
    from fusedface.recipes.engine.run import pick_device

    target = pick_device(device)
    cases = kernels.parse_cases(shapes or ["256x85742x128"], phases.split(","))
    console = Console()
    with console.status("measuring") as status:
        rows = kernels.run(
            cases,
            target,
            rounds,
            only,
            memory,
            lambda row: status.update(f"{row.case}: {row.provider}"),
        )
    report.print_table(rows, target, console)
    if out is not None:
        report.write_json(rows, target, out)


@bench_app.command("tune")
def bench_tune(
    shape: Annotated[
        str, typer.Option("--shape", help="BxCxD of the training to come.")
    ] = "512x85742x128",
    precision: Annotated[
        str, typer.Option(help="float16, bfloat16, tf32 or float32.")
    ] = "bfloat16",
    device: Annotated[str, typer.Option("--device")] = "cuda",
) -> None:
    """Time the GPU kernels' tile shapes and keep the fastest for this device, on disk."""
    from fusedface.bench.kernels import parse_cases
    from fusedface.kernels.gpu.tuning import tune
    from fusedface.recipes.engine.run import pick_device

    (case,) = parse_cases([shape], ["start"])
    sizes = (case.num_rows, case.num_classes, case.dim)
    timings = tune(*sizes, precision=precision, device=pick_device(device))
    table = Table("kernel", "tile", "ms")
    for timing in timings:
        table.add_row(str(timing.case), str(timing.tile), f"{timing.milliseconds:.3f}")
    Console().print(table)


@app.command()
def doctor() -> None:
    """What runs here, and why: versions, devices, the backend chosen, tuned choices on disk."""
    from fusedface.kernels.gpu.doctor import report

    table = Table(show_header=False, box=None)
    for name, value in report():
        table.add_row(name, value)
    Console().print(table)


def _resolve(recipe, data, pairs, root, settings):
    """The recipe that the arguments describe."""
    from fusedface.recipes.registry import get_recipe
    from fusedface.recipes.settings import override, with_data

    resolved = get_recipe(recipe)
    if data is not None or pairs:
        resolved = with_data(resolved, data, pairs or [], root)
    return override(resolved, settings or [])


def _free_folder(parent: Path, name: str) -> Path:
    """parent/name, or the first of parent/name-2, -3, ... that is not there."""
    candidate, number = parent / name, 1
    while candidate.exists():
        number += 1
        candidate = parent / f"{name}-{number}"
    return candidate


def main() -> None:
    """Run the command line; a user's mistake is one message, not a traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        Console(stderr=True).print(
            f"[red]error:[/] {_escaped(error)}", highlight=False, soft_wrap=True
        )
        sys.exit(2)


def _escaped(error: Exception) -> str:
    from rich.markup import escape

    return escape(str(error))


if __name__ == "__main__":
    main()
