"""`bench ...`: measure alternatives side by side on this machine."""

from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from fusedface.commands.bench_results import compare_results, wide_console, write_readme
from fusedface.commands.options import DeviceOption
from fusedface.recipes.host.terminal import working

app = typer.Typer(help="Benchmarks: measured side by side, on this machine.", no_args_is_help=True)

OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write everything as JSON here, after each case.")
]
RoundsOption = Annotated[int, typer.Option(min=0, help="Timed runs of each, in turn; at most.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", help="Part of the names of the competitors to run; may be repeated."),
]
SkipOption = Annotated[
    list[str] | None,
    typer.Option("--skip", help="Part of the names of competitors not to run; may be repeated."),
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
    skip: SkipOption = None,
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
    """Time the head (forward, backward, optimiser) against its alternatives, and measure its memory."""
    import time

    from fusedface.bench import case, kernels, tables
    from fusedface.recipes.host.device import pick_device

    target = pick_device(device)
    cases = case.parse_cases(shapes or case.default_shapes(target), phases.split(","), target)
    plan = kernels.Plan(
        target,
        rounds,
        tuple(only or ()),
        tuple(skip or ()),
        memory,
        seconds,
        time.perf_counter() + 60.0 * minutes,
    )
    console = wide_console()
    with working(console, "measuring") as note:
        document = kernels.run_to_file(cases, plan, out, resume, note)
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
        _write(out, "tune", target, rows)
    tables.print_tiles(rows, wide_console())


@app.command("scaling")
def bench_scaling(
    along: Annotated[str, typer.Option(help="What grows: classes or batch.")] = "classes",
    dim: Annotated[int, typer.Option(min=1, help="D.")] = 128,
    most: Annotated[
        int | None, typer.Option(min=1, help="The largest C or B; without it C fills the memory.")
    ] = None,
    rounds: RoundsOption = 5,
    only: OnlyOption = None,
    seconds: Annotated[float, typer.Option(help="Of timing a case.")] = 30.0,
    minutes: Annotated[float, typer.Option(help="After which no case begins.")] = float("inf"),
    resume: Annotated[bool, typer.Option("--resume", help="Keep the cases in --out.")] = False,
    out: Annotated[Path, typer.Option("--out", help="JSON; the plot is put next to it.")] = Path(
        "runs/scaling.json"
    ),
    device: DeviceOption = None,
) -> None:
    """Measure time and memory against the number of classes or the batch size."""
    import time

    from fusedface.bench import kernels, plots, scaling, tables
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
    plan = kernels.Plan(
        target, rounds, tuple(only or scaling.HEADS), ("compiled",), True, seconds, deadline
    )
    console = wide_console()
    with working(console, "measuring") as note:
        document = kernels.run_to_file(cases, plan, out, resume, note, "scaling")
    tables.print_kernels(document, console)
    plots.plot_growth(document, "num_classes" if by_classes else "num_rows", out)


@app.command("step")
def bench_step(
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A backbone; may be repeated.")
    ] = None,
    batch: Annotated[int, typer.Option(min=2, help="Images a step.")] = 64,
    classes: Annotated[int, typer.Option(min=2, help="C.")] = 85742,
    size: Annotated[int, typer.Option(min=16, help="Pixels of a side, a multiple of 16.")] = 112,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps with each head, in turn.")] = 9,
    out: OutOption = None,
    device: DeviceOption = None,
) -> None:
    """Time a training step with the fused and the eager head: images per second, share of the head."""
    from fusedface.bench import step, tables
    from fusedface.recipes.host.device import pick_device

    target, rows, console = pick_device(device), [], wide_console()
    with working(console, "measuring") as note:
        for model in models or step.MODELS:
            setup = step.Setup(model, batch, classes, size)
            rows += step.run(setup, target, rounds, note)
            _write(out, "step", target, rows)
    tables.print_steps(rows, console)


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
    rows = host.run(target, steps)
    _write(out, "host", target, rows)
    tables.print_host(rows, wide_console())


@app.command("data")
def bench_data(
    data: Annotated[
        str | None, typer.Option("--data", help="Also a folder or list of yours.")
    ] = None,
    images: Annotated[int, typer.Option(min=8, help="Images of a batch.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Batches of each.")] = 5,
    out: OutOption = None,
    device: DeviceOption = None,
) -> None:
    """Time each image source with each augmentation in one process: images per second."""
    from fusedface.bench import data as bench
    from fusedface.bench import tables
    from fusedface.recipes.host.device import pick_device

    target, console = pick_device(device), wide_console()
    with working(console, "measuring") as note:
        rows = bench.run(images, rounds, data, device=target, note=note)
    _write(out, "data", target, rows)
    tables.print_data(rows, console)


@app.command("convergence")
def bench_convergence(
    model: Annotated[str, typer.Option(help="A backbone.")] = "mobilefacenet",
    steps: Annotated[int, typer.Option(min=1, help="With each head.")] = 300,
    batch: Annotated[int, typer.Option(min=2, help="Images a step.")] = 128,
    classes: Annotated[int, typer.Option(min=2, help="Generated people.")] = 100,
    size: Annotated[int, typer.Option(min=16, help="Pixels of a side, a multiple of 16.")] = 112,
    lr: Annotated[float, typer.Option(help="Learning rate, constant.")] = 0.1,
    minutes: Annotated[float, typer.Option(help="With each head, at most.")] = float("inf"),
    out: OutOption = None,
    device: DeviceOption = None,
) -> None:
    """Train briefly with the fused and with the eager head, and compare losses and accuracy."""
    from fusedface.bench import convergence, tables
    from fusedface.bench.step import Setup
    from fusedface.recipes.host.device import pick_device

    target, console = pick_device(device), wide_console()
    training = convergence.Training(Setup(model, batch, classes, size), steps, lr, 60.0 * minutes)
    with working(console, "training") as note:
        rows = convergence.run(training, target, note)
    _write(out, "convergence", target, rows)
    tables.print_convergence(rows, console)


@app.command("ranks")
def bench_ranks(
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
    _write(out, "ranks", pick_device("cpu"), rows)
    tables.print_ranks(rows, console)


app.command("compare")(compare_results)
app.command("readme")(write_readme)


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


def _write(out, benchmark, device, rows) -> None:
    from fusedface.bench import results

    if out is not None:
        results.write_json(out, results.document(benchmark, device, rows))
