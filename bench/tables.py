"""Results as tables on the terminal."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from fusedface.bench.case import Case
from fusedface.bench.compare import Change
from fusedface.bench.results import describe
from fusedface.bench.rows import Row, Triple
from fusedface.recipes.host.terminal import Table, plain, say

LEGEND = (
    "ms: medians, of forward + backward with the quartiles; step: with the update of the class centres. "
    "x f32, x bf16: forward + backward over that of our head with the same loss in that precision, "
    "median of paired runs. MiB: peak beyond the inputs, gradients included. limit: the least time that "
    "any implementation needs at the rates below, as a share of the time taken. "
    "error: against float64, of the loss and of the worse gradient, relative."
)

HEADINGS = (
    "forward", "backward", "both", "25-75 %", "step", "x f32", "x bf16", "MiB", "Tflop/s", "GB/s",
    "limit", "loss error", "gradient",
)  # fmt: skip


def print_kernels(document: dict[str, Any], console: Console) -> None:
    """Print a result of `kernels.run_to_file`, one table per case."""
    rows = [Row.from_dict(row) for row in document["rows"]]
    for case in dict.fromkeys(row.case for row in rows):
        _print_case(case, [row for row in rows if row.case == case], console)
    console.print(plain(f"{describe(document['machine'])}. {LEGEND}"))
    console.print(plain(limits(document)))


def _print_case(case: Case, rows: Sequence[Row], console: Console) -> None:
    """Print the figures of a case, then why heads without figures have none."""
    table = Table(str(case), ["ms"], HEADINGS)
    table.add_rows(_cells(row) for row in rows if row.ms or not row.note)
    console.print(table)
    for row in rows:
        if row.note and not row.ms:
            say(console, f" {row.head}: {row.note}")


def limits(document: dict[str, Any]) -> str:
    """A sentence on the ceilings of a document, after its note; empty if nothing was timed."""
    if not document["ceilings"]:
        return ""
    ceilings = document["ceilings"]
    products = ", ".join(f"{p} {rate / 1e12:.3g}" for p, rate in ceilings["flops"].items())
    return (
        f"{document.get('note', 'Measured in the same run')}: products {products} Tflop/s, "
        f"copies {ceilings['bytes'] / 1e9:.3g} GB/s, {ceilings['exps'] / 1e9:.3g} G exp2/s."
    )


def print_steps(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print rows of `step.run`, one line per network and head."""
    figures = ["images/s", "25-75 %", "data", "backbone", "head, ms", "optimizer", "head's share"]
    figures.append("MiB more")
    table = Table("training step", ["network", "head"], figures, num_keys=2)
    for row in rows:
        low, mid, high = row["images_per_second"]
        ms, peak = row["ms"], row.get("peak_extra_mib")
        table.add_row(
            f"{_network(row)}, {row['precision']}",
            row["head"], f"{mid:.1f}", f"{low:.1f}-{high:.1f}",
            *(milliseconds(ms[part]) for part in ("data", "backbone", "head", "optimizer")),
            f"{row['head_share']:.1%}", "-" if peak is None else f"{peak:.0f}",
        )  # fmt: skip
    console.print(table)


def print_trained_steps(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print rows of `trained_step.run`, one line per way to make a step."""
    table = Table("steps of recipe run", ["network", "steps"], ["images/s", "25-75 %"], num_keys=2)
    for row in rows:
        low, mid, high = row["images_per_second"]
        table.add_row(
            _network(row), row["way"], f"{mid:,.0f}", f"{low:,.0f}-{high:,.0f}",
        )  # fmt: skip
    console.print(table)
    for line in dict.fromkeys(line for row in rows for line in row["said"]):
        console.print(plain(line))


def _network(row: dict[str, Any]) -> str:
    """Network, size of the images, batch and number of classes of a row."""
    sizes = f"{row['size']}x{row['size']}, B={row['num_rows']} C={row['num_classes']:,}"
    return f"{row['model']}, {sizes}"


def print_unknowns(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print rows of `unknowns.run`, each next to what docs/performance.md assumes."""
    table = Table("unknowns of the performance model", ["what"], ["measured", "assumed"])
    for row in rows:
        taken = row["measured"] is not None
        figure = f"{row['measured']:.3g} {row['unit']}" if taken else row["note"]
        table.add_row(row["what"], figure, row["assumed"])
    console.print(table)


def print_tiles(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print rows of `bench tune`, one line per kernel and tile shape."""
    table = Table("tile shapes", ["kernel", "tile"], ["ms"])
    for row in rows:
        table.add_row(row["kernel"], row["tile"], "-" if row["ms"] is None else f"{row['ms']:.3f}")
    console.print(table)


def print_ahead(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print what became of the jobs of `ahead.run`: their number, and those that failed."""
    seconds = sum(row["seconds"] for row in rows)
    say(console, f"{len(rows)} steps and kernels compiled in {seconds:.0f} s of all processes")
    for note, num in Counter(row["note"] for row in rows if row["note"]).items():
        job = next(row["job"] for row in rows if row["note"] == note)
        others = f" (and {num - 1} more)" if num > 1 else ""
        say(console, f"{job}{others}: {note}")


def print_host(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print rows of `host.run`, one line per margin."""
    table = Table("the host in a step of the head, us", ["margin", "driver"], ["fastest", "median"])
    for row in rows:
        figures = (f"{row[name]:.0f}" for name in ("fastest_us", "median_us"))
        table.add_row(row["margin"], row["driver"], *figures)
    console.print(table)


def print_ranks(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print rows of `ranks.run`, one line per number of processes."""
    table = Table("the head on several processes", ["case", "processes"], ["ms", "ratio"])
    for row in rows:
        table.add_row(row["case"], str(row["processes"]), f"{row['ms']:.0f}", f"{row['ratio']:.2f}")
    console.print(table)


def print_data(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print rows of `data.run`, one line per source and augmentation."""
    table = Table(
        "images in one process", ["source", "augmentation"], ["images/s", "25-75 %"], num_keys=2
    )
    for row in rows:
        if row["images_per_second"] is None:
            table.add_row(row["source"], row["augmentation"], row["note"], "")
        else:
            low, mid, high = row["images_per_second"]
            table.add_row(row["source"], row["augmentation"], f"{mid:.0f}", f"{low:.0f}-{high:.0f}")
    console.print(table)


def print_convergence(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print rows of `convergence.run`, one line per head."""
    figures = ["steps", "first loss", "last loss", "accuracy", "images/s"]
    table = Table("short training", ["head"], figures)
    for row in rows:
        table.add_row(
            row["head"], str(len(row["losses"])), f"{row['losses'][0]:.3f}", f"{row['last_loss']:.3f}",
            f"{row['accuracy']:.1%}", f"{row['images_per_second']:.0f}",
        )  # fmt: skip
    console.print(table)


def print_changes(unit: str, changes: Sequence[Change], console: Console) -> None:
    """Print changes of `compare.compare`, one line per row of either file."""
    table = Table(f"{unit}, medians", ["row"], ["old", "new", "speed", "verdict"])
    for change in changes:
        speed = "" if change.speed is None else f"x {change.speed:.2f}"
        table.add_row(
            change.name, _middle(change.old), _middle(change.new), speed, _verdict(change)
        )
    console.print(table)


def _middle(triple: Triple | None) -> str:
    return "did not run" if triple is None else milliseconds(triple[1])


def _verdict(change: Change) -> Text:
    if change.speed is None or not change.clear:
        return plain("" if change.speed is None else "within the spread")
    return plain("faster", "green") if change.speed > 1 else plain("slower", "red")


def milliseconds(value: float) -> str:
    """A time as text, with at least three digits below a second."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _cells(row: Row) -> list[str]:
    passes = [_median(row, name) for name in ("forward", "backward", "both", "step")]
    low, _, high = row.ms.get("both", (0.0, 0.0, 0.0))
    errors = row.errors or {}
    gradients = [errors[name] for name in ("embeddings", "weight") if name in errors]
    return [
        row.head,
        *passes[:3],
        f"{milliseconds(low)}-{milliseconds(high)}" if row.ms else "",
        passes[3],
        *(_ratio(row, precision) for precision in ("float32", "bfloat16")),
        _figure(row.peak_extra_mib, ".0f"),
        _figure(row.flops_per_second, ".3g", 1e12),
        _figure(row.bytes_per_second, ".3g", 1e9),
        _figure(row.of_limit, ".0%"),
        _figure(errors.get("loss"), ".1e"),
        _figure(max(gradients, default=None), ".1e"),
    ]


def _median(row: Row, name: str) -> str:
    return milliseconds(row.ms[name][1]) if name in row.ms else ""


def _ratio(row: Row, precision: str) -> str:
    ratios = row.ratios.get("both", {})
    found = next((ratio for base, ratio in ratios.items() if base.endswith(precision)), None)
    return _figure(found, ".2f")


def _figure(value: float | None, form: str, unit: float = 1.0) -> str:
    return "" if value is None else format(value / unit, form)
