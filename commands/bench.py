"""`bench ...`: measure on this machine, side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusedface.commands.options import DeviceOption

app = typer.Typer(help="Benchmarks: measured side by side, on this machine.", no_args_is_help=True)

OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write everything as JSON here, after each case.")
]
RoundsOption = Annotated[int, typer.Option(min=0, help="Timed runs of each, in turn; at most.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", help="Part of the names of the competitors to run; may be repeated."),
]


@app.command("kernels")
def bench_kernels(
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            help="BxCxD, such as 256x85742x128; may be repeated; C may be max. Without it, the "
            "shapes that suit the device.",
        ),
    ] = None,
    phases: Annotated[
        str, typer.Option(help="start (all negatives hard), late (few are), or both: start,late.")
    ] = "start,late",
    rounds: RoundsOption = 9,
    only: OnlyOption = None,
    memory: Annotated[bool, typer.Option(help="Also measure peak extra memory.")] = True,
    seconds: Annotated[
        float, typer.Option(help="Of timing a case, after which no round begins.")
    ] = 60.0,
    minutes: Annotated[
        float, typer.Option(help="After which no case begins; run again with --resume.")
    ] = float("inf"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the cases in --out, measure the others.")
    ] = False,
    out: OutOption = None,
    device: DeviceOption = None,
) -> None:
    """The head, forward, backward and with its optimiser, against what one would use instead."""
    import time

    from fusedface.bench import case, kernels, tables
    from fusedface.recipes.engine.device import pick_device

    target = pick_device(device)
    cases = case.parse_cases(shapes or case.default_shapes(target), phases.split(","), target)
    plan = kernels.Plan(
        target, rounds, tuple(only or ()), memory, seconds, time.perf_counter() + 60.0 * minutes
    )
    console = Console()
    with console.status("measuring") as status:
        document = kernels.run_to_file(cases, plan, out, resume, status.update)
    tables.print_kernels(document, console)


@app.command("tune")
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
    from rich.table import Table

    from fusedface.bench.case import parse_cases
    from fusedface.kernels.gpu.tuning import tune
    from fusedface.recipes.engine.device import pick_device

    (case,) = parse_cases([shape], ["start"])
    sizes = (case.num_rows, case.num_classes, case.dim)
    timings = tune(*sizes, precision=precision, device=pick_device(device))
    table = Table("kernel", "tile", "ms")
    for timing in timings:
        table.add_row(str(timing.case), str(timing.tile), f"{timing.milliseconds:.3f}")
    Console().print(table)
