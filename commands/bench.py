"""`bench ...`: measure alternatives side by side on this machine."""

from math import isfinite
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
    SkipOption,
    save_rows,
    wide_console,
)
from fusedface.commands.options import DeviceOption
from fusedface.recipes.host.terminal import say, working

app = typer.Typer(help="Benchmarks: measured side by side, on this machine.", no_args_is_help=True)

ShapesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        help="BxCxD, such as 256x85742x128; may be repeated; C may be max. Without it, the "
        "shapes that suit the device.",
    ),
]
PhasesOption = Annotated[
    str, typer.Option(help="start (all negatives hard), late (few are), or both: start,late.")
]
MemoryOption = Annotated[bool, typer.Option(help="Also measure peak extra memory.")]


@app.command("kernels")
def bench_kernels(
    shapes: ShapesOption = None,
    phases: PhasesOption = "start,late",
    rounds: RoundsOption = 9,
    only: OnlyOption = None,
    skip: SkipOption = None,
    memory: MemoryOption = True,
    seconds: SecondsOption = 60.0,
    minutes: MinutesOption = float("inf"),
    resume: ResumeOption = False,
    out: OutOption = None,
    device: DeviceOption = None,
) -> None:
    """Time the head (forward, backward, optimiser) against its alternatives, and measure its memory."""
    import time

    from fusedface.bench import case, failures, kernels, plan, tables
    from fusedface.recipes.host.device import pick_device

    target = pick_device(device)
    cases = case.parse_cases(shapes or case.default_shapes(target), phases.split(","), target)
    settings = plan.Plan(
        target,
        rounds,
        tuple(only or ()),
        tuple(skip or ()),
        memory,
        seconds,
        time.perf_counter() + 60.0 * minutes,
    )
    console = wide_console()
    try:
        with working(console, "measuring") as note:
            document = kernels.run_to_file(cases, settings, out, resume, note)
    except failures.DeviceLostError as error:
        say(
            console, f"this process has lost the device, --resume goes on without the head: {error}"
        )
        raise typer.Exit(failures.DEVICE_LOST) from None
    tables.print_kernels(document, console)


@app.command("tune")
def bench_tune(
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shape", help="BxCxD of the training to come; may be repeated."),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float16, bfloat16, tf32 or float32.")
    ] = "bfloat16",
    out: OutOption = None,
    device: Annotated[str, typer.Option("--device")] = "cuda",
) -> None:
    """Time the tile shapes of the GPU kernels, and save the fastest for this device."""
    from fusedface.bench import tables
    from fusedface.bench.case import parse_cases
    from fusedface.kernels.gpu.tuning import tune
    from fusedface.recipes.host.device import pick_device

    target, rows = pick_device(device), []
    for case in parse_cases(shapes or ["512x85742x128"], ["start"]):
        timings = tune(
            case.num_rows, case.num_classes, case.dim, precision=precision, device=target
        )
        for timing in timings:
            ms = timing.milliseconds if isfinite(timing.milliseconds) else None
            rows.append({"kernel": str(timing.case), "tile": str(timing.tile), "ms": ms})
        save_rows(out, "tune", target, rows)
    tables.print_tiles(rows, wide_console())


@app.command("ahead")
def bench_ahead(
    shapes: ShapesOption = None,
    tuned: Annotated[
        list[str] | None,
        typer.Option("--tune", help="BxCxD whose tile shapes `tune` will time; may be repeated."),
    ] = None,
    out: OutOption = None,
    device: Annotated[str, typer.Option("--device")] = "cuda",
) -> None:
    """Compile the GPU kernels of the other benchmarks on all cores but one, so that they need not."""
    from fusedface.bench import ahead, tables
    from fusedface.bench.case import default_shapes, parse_cases
    from fusedface.recipes.host.device import pick_device

    target, console = pick_device(device), wide_console()
    gpu = ahead.Gpu.of(target)
    cases = parse_cases(shapes or default_shapes(target), ["start"], target)
    todo = ahead.jobs(cases, parse_cases(tuned or [], ["start"]), gpu)
    with working(console, "compiling") as note:
        rows = ahead.run(todo, gpu, note)
    save_rows(out, "ahead", target, rows)
    tables.print_ahead(rows, console)


@app.command("host")
def bench_host(
    steps: Annotated[int, typer.Option(min=1, help="Timed steps with each margin.")] = 2000,
    out: OutOption = None,
    device: DeviceOption = None,
) -> None:
    """Time the work of the host in an eager step of the head; without a GPU no kernel is started."""
    from fusedface.bench import host, tables
    from fusedface.recipes.host.device import pick_device

    target = pick_device(device)
    rows = host.run(target, steps, lambda rows: save_rows(out, "host", target, rows))
    tables.print_host(rows, wide_console())


@app.command("gpu-suite")
@app.command("gpu_suite", hidden=True)
def bench_gpu_suite(
    out: Annotated[Path, typer.Option("--out", help="A folder; what it holds is not done again.")],
    minutes: Annotated[float, typer.Option(help="For everything, start to end.")] = 9.0,
    parts: Annotated[
        list[str] | None, typer.Option("--part", help="Only these parts; may be repeated.")
    ] = None,
    skip: SkipOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny shapes, to see that it works.")
    ] = False,
    device: Annotated[str, typer.Option("--device")] = "cuda",
) -> None:
    """Run tests, error checks, tuning, timings and convergence on a GPU, in parts that can be resumed."""
    from fusedface.bench import suite
    from fusedface.recipes.host.device import pick_device

    target = pick_device(device)
    finished = suite.run(
        out, target, minutes, tuple(parts or ()), quick, wide_console(), tuple(skip or ())
    )
    raise typer.Exit(0 if finished else 1)
