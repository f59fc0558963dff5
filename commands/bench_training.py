"""`bench step`, `trained-step`, `unknowns`, `data` and `convergence`: what a training is made of."""

from typing import Annotated

import typer

from fusedface.commands.bench_options import OutOption, measured, save_rows, wide_console
from fusedface.commands.options import DeviceOption
from fusedface.recipes.host.terminal import working

ModelOption = Annotated[str, typer.Option(help="A backbone.")]
BatchOption = Annotated[int, typer.Option(min=2, help="Images a step.")]
ClassesOption = Annotated[int, typer.Option(min=2, help="Number of classes C.")]
SizeOption = Annotated[int, typer.Option(min=16, help="Pixels of a side, a multiple of 16.")]


def time_step(
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A backbone; may be repeated.")
    ] = None,
    batch: BatchOption = 64,
    classes: ClassesOption = 85742,
    size: SizeOption = 112,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps with each head, in turn.")] = 9,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Also with the backbone under torch.compile.")
    ] = False,
    out: OutOption = None,
    device: DeviceOption = None,
) -> None:
    """Time a training step with the fused and the eager head: images per second, share of the head.

    On a CPU also with the fused head and torch's operators for all layers of the backbone.
    """
    from fusedface.bench import step, tables
    from fusedface.bench.training_steps import Setup
    from fusedface.recipes.host.device import pick_device

    target, rows, console = pick_device(device), [], wide_console()
    with working(console, "measuring") as note:
        for model in models or step.MODELS:
            setup = Setup(model, batch, classes, size)
            rows += step.run(setup, target, rounds, note, compiled=compiled)
            save_rows(out, "step", target, rows)
    tables.print_steps(rows, console)


def time_trained_step(
    model: ModelOption = "mobilefacenet",
    batch: BatchOption = 512,
    classes: ClassesOption = 85742,
    size: SizeOption = 112,
    rounds: Annotated[int, typer.Option(min=1, help="Readings, each after 10 steps.")] = 9,
    compiled: Annotated[bool, typer.Option(help="Also under torch.compile.")] = True,
    out: OutOption = None,
    device: DeviceOption = None,
) -> None:
    """Time the steps that `recipe run` makes: eager, compiled, and on a GPU from a CUDA graph."""
    from fusedface.bench import tables, trained_step
    from fusedface.bench.training_steps import Setup
    from fusedface.recipes.host.device import pick_device

    target, console = pick_device(device), wide_console()
    names = trained_step.ways(target, compiled=compiled)
    with working(console, "measuring") as note:
        rows = trained_step.run(
            Setup(model, batch, classes, size), target, rounds, names, note,
            lambda rows: save_rows(out, "trained-step", target, rows),
        )  # fmt: skip
    save_rows(out, "trained-step", target, rows)
    tables.print_trained_steps(rows, console)


def measure_unknowns(
    out: OutOption = None,
    device: Annotated[str, typer.Option("--device", help="A GPU, such as cuda:1.")] = "cuda",
) -> None:
    """Measure what the performance model assumes of a GPU: L2, graph nodes, programs at once."""
    from fusedface.bench import tables, unknowns

    measured(
        "unknowns",
        lambda target, note: unknowns.run(
            target, note, on_rows=lambda rows: save_rows(out, "unknowns", target, rows)
        ),
        tables.print_unknowns,
        out,
        device,
    )


def time_data(
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

    measured(
        "data",
        lambda target, note: bench.run(images, rounds, data, device=target, note=note),
        tables.print_data,
        out,
        device,
    )


def compare_convergence(
    model: ModelOption = "mobilefacenet",
    steps: Annotated[int, typer.Option(min=1, help="With each head.")] = 300,
    batch: BatchOption = 128,
    classes: Annotated[int, typer.Option(min=2, help="Generated people.")] = 100,
    size: SizeOption = 112,
    lr: Annotated[float, typer.Option(help="Learning rate, constant.")] = 0.1,
    minutes: Annotated[float, typer.Option(help="With each head, at most.")] = float("inf"),
    out: OutOption = None,
    device: DeviceOption = None,
) -> None:
    """Train briefly with the fused and with the eager head, and compare losses and accuracy."""
    from fusedface.bench import convergence, tables
    from fusedface.bench.training_steps import Setup

    training = convergence.Training(Setup(model, batch, classes, size), steps, lr, 60.0 * minutes)
    measured(
        "convergence",
        lambda target, note: convergence.run(training, target, note),
        tables.print_convergence,
        out,
        device,
    )
