"""`bench scaling` and `bench ranks`: the head with more classes, larger batches, more processes."""

from pathlib import Path
from typing import Annotated

import typer

from fusedface.commands.bench_options import (
    MinutesOption,
    OnlyOption,
    OutOption,
    ResumeOption,
    RoundsOption,
    SecondsOption,
    save_rows,
    wide_console,
)
from fusedface.commands.options import DeviceOption
from fusedface.recipes.host.terminal import working


def measure_growth(
    along: Annotated[str, typer.Option(help="What grows: classes or batch.")] = "classes",
    dim: Annotated[int, typer.Option(min=1, help="D.")] = 128,
    most: Annotated[
        int | None, typer.Option(min=1, help="The largest C or B; without it C fills the memory.")
    ] = None,
    rounds: RoundsOption = 5,
    only: OnlyOption = None,
    seconds: SecondsOption = 30.0,
    minutes: MinutesOption = float("inf"),
    resume: ResumeOption = False,
    out: Annotated[Path, typer.Option("--out", help="JSON; the plot is put next to it.")] = Path(
        "runs/scaling.json"
    ),
    device: DeviceOption = None,
) -> None:
    """Measure time and memory against the number of classes or the batch size."""
    import time

    from fusedface.bench import kernels, plan, plots, scaling, tables
    from fusedface.recipes.host.device import pick_device

    target = pick_device(device)
    if along not in ("classes", "batch"):
        raise ValueError(f"--along must be classes or batch, got {along!r}")
    by_classes = along == "classes"
    cases = (
        scaling.cases_by_classes(dim, most, target)
        if by_classes
        else scaling.cases_by_rows(dim, most or scaling.ROWS[-1])
    )
    deadline = time.perf_counter() + 60.0 * minutes
    settings = plan.Plan(
        target, rounds, tuple(only or scaling.HEADS), ("compiled",), True, seconds, deadline
    )
    console = wide_console()
    with working(console, "measuring") as note:
        document = kernels.run_to_file(cases, settings, out, resume, note, "scaling")
    tables.print_kernels(document, console)
    plots.plot_growth(document, "num_classes" if by_classes else "num_rows", out)


def time_processes(
    shape: Annotated[
        str, typer.Option("--shape", help="BxCxD; B is that of all processes.")
    ] = "256x85742x128",
    counts: Annotated[
        str, typer.Option("--processes", help="How many, the first to compare with.")
    ] = "1,2,4",
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each, in turn.")] = 9,
    out: OutOption = None,
) -> None:
    """Time a step of the head with its class centres split over processes of this machine (Gloo)."""
    from fusedface.bench import ranks, tables
    from fusedface.bench.case import parse_cases
    from fusedface.recipes.host.device import pick_device

    (case,) = parse_cases([shape], ["start"])
    if not all(count.strip().isdigit() for count in counts.split(",")):
        raise ValueError(f"--processes must be numbers such as 1,2,4, got {counts!r}")
    console = wide_console()
    with working(console, "measuring"):
        rows = ranks.run(case, [int(count) for count in counts.split(",")], rounds)
    save_rows(out, "ranks", pick_device("cpu"), rows)
    tables.print_ranks(rows, console)
