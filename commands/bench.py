"""`bench ...`: measure on this machine, side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fusedface.commands.options import DeviceOption

app = typer.Typer(help="Benchmarks: measured side by side, on this machine.", no_args_is_help=True)


@app.command("kernels")
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
