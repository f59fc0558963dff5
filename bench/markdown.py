"""The tables of README.md and docs/benchmarks.md, written from bench/results/*.json only."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fusedface.bench.case import Case
from fusedface.bench.fastest import Fastest, fastest, is_ours, loss_and_precision
from fusedface.bench.results import describe, read
from fusedface.bench.rows import Row
from fusedface.bench.tables import limits, milliseconds
from fusedface.kernels import ArcFace, CurricularFace, NormFace

RESULTS = Path(__file__).resolve().parent / "results"
BEGIN, END = "<!-- begin: bench readme -->", "<!-- end: bench readme -->"
HEADLINES = ((512, 85742, 512), (256, 85742, 128))  # (B, C, D); the first one in a file is shown
INTRODUCTION = (
    "Medians of runs in turn in one process, each formulation checked against float64, loss and gradients, "
    "before it is timed.\n*Start*: every negative is hard; *late*: few are. MiB: peak beyond the inputs, "
    "gradients included."
)
RANGES = (
    "The time of the fastest alternative of the same loss and precision, divided by ours:",
    "",
    "| machine | comparisons | ratios | |",
    "|---|---|---|---|",
)
LOSSES = {
    margin.name: type(margin).__name__ for margin in (CurricularFace(), ArcFace(), NormFace())
}
LABELS = {
    "fused curricularface float32": "**fused CurricularFace, float32**",
    "fused curricularface bfloat16": "**fused CurricularFace, bfloat16 products**",
    "fused curricularface bfloat16, CUDA graph": "fused CurricularFace, bfloat16, in a CUDA graph",
    "fused curricularface bfloat16, exponentials kept": "the same, exponentials kept for the backward",
    "official curricularface": "official formulation (boolean indexing)",
    "eager curricularface": "best eager formulation (`torch.where`)",
    "eager curricularface bfloat16": "the same, bfloat16 products",
    "compiled eager curricularface": "best eager formulation under `torch.compile`",
    "compiled eager curricularface bfloat16": "the same, bfloat16 products",
    "fused arcface float32": "**fused ArcFace, float32**",
    "fused arcface bfloat16": "**fused ArcFace, bfloat16 products**",
    "eager arcface": "best eager ArcFace",
    "partial fc arcface": "insightface's Partial FC formulation",
    "partial fc arcface bfloat16": "the same, bfloat16 products",
    "pytorch-metric-learning arcface": "pytorch-metric-learning `ArcFaceLoss`",
    "auto-chunked arcface": "ArcFace under Inductor's auto-chunker",
    "auto-chunked arcface bfloat16": "the same, bfloat16 products",
    "fused normface float32": "**fused, no margin, float32**",
    "fused normface bfloat16": "**fused, no margin, bfloat16 products**",
    "eager normface": "eager, no margin",
    "eager normface bfloat16": "the same, bfloat16 products",
    "torch linear_cross_entropy normface": "torch `linear_cross_entropy`, no margin",
    "torch linear_cross_entropy normface bfloat16": "the same, bfloat16",
    "liger normface": "Liger-Kernel, no margin",
    "liger normface bfloat16": "the same, bfloat16",
    "liger hopper normface bfloat16": "Liger-Kernel's kernel for Hopper, no margin, bfloat16",
    "quack normface bfloat16": "QuACK, no margin, bfloat16",
    "cut-cross-entropy normface bfloat16": "cut-cross-entropy, no margin, bfloat16",
}


def documents(folder: Path = RESULTS) -> list[tuple[Path, dict[str, Any]]]:
    """All results in a folder, sorted by file name."""
    return [(path, read(path)) for path in sorted(folder.glob("*.json"))]


def readme(found: Iterable[tuple[Path, dict[str, Any]]]) -> str:
    """Text for README.md: the ratios of each result of `bench kernels`, and one shape of the fullest."""
    results = {
        path: (describe(document["machine"]), [Row.from_dict(row) for row in document["rows"]])
        for path, document in found
        if document["benchmark"] == "kernels"
    }
    if not results:
        return INTRODUCTION
    lines = [_range(path, *results[path]) for path in results]
    where, rows = max(results.values(), key=lambda one: sum(bool(row.ms) for row in one[1]))
    return "\n".join([INTRODUCTION, "", *RANGES, *lines, "", _headline(where, rows)])


def _headline(where: str, rows: Sequence[Row]) -> str:
    """Table of the first of HEADLINES that a result has, else of its first shape."""
    shapes = [_shape(row.case) for row in rows]
    shape = next((s for s in HEADLINES if s in shapes), shapes[0])
    return f"{_heading(shape)} on {where}:\n\n{_table(rows, shape)}"


def _range(path: Path, where: str, rows: Sequence[Row]) -> str:
    """A line of RANGES: all ratios of a result."""
    found = fastest(rows)
    ratios, num_sizes = [one.ratio for one in found], len({_shape(one.case) for one in found})
    span = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "none was timed"
    link = f"[all figures](bench/results/{path.name})"
    return f"| {where} | {len(ratios)} at {num_sizes} sizes | {span} | {link} |"


def _shape(case: Case) -> tuple[int, int, int]:
    return case.num_rows, case.num_classes, case.dim


def full(found: Iterable[tuple[Path, dict[str, Any]]]) -> str:
    """Text for docs/benchmarks.md: machine and tables of each file; a file without tables is left out."""
    makers = {"kernels": _kernels, "step": _steps, "data": _sources}
    parts = []
    for path, document in found:
        if document["benchmark"] in makers:
            title = f"### bench {document['benchmark']}: {describe(document['machine'])}"
            body = makers[document["benchmark"]](document)
            parts += [title, f"From `bench/results/{path.name}`.", *body]
    return "\n\n".join(parts)


def _kernels(document: dict[str, Any]) -> list[str]:
    rows = [Row.from_dict(row) for row in document["rows"]]
    shapes = dict.fromkeys(_shape(row.case) for row in rows)
    tables = [part for shape in shapes for part in (f"{_heading(shape)}:", _table(rows, shape))]
    return [*filter(None, [limits(document), _ratios(rows)]), *tables]


def _ratios(rows: Sequence[Row]) -> str:
    """Table of the time of the fastest alternative over ours; empty if no head of ours has one."""
    by_line: dict[tuple, dict[str, Fastest]] = {
        (_shape(row.case), *loss_and_precision(row.head)): {}
        for row in rows
        if is_ours(row.head) and row.ms
    }
    found = fastest(rows)
    for one in found:
        by_line[_shape(one.case), one.loss, one.precision][one.case.phase] = one
    lines = [
        "The time of the fastest alternative of the same loss and precision, divided by ours:\n",
        "| B, C, D | loss, precision | start | late | fastest alternative, start and late |",
        "|---|---|---|---|---|",
    ]
    for (shape, loss, precision), phases in by_line.items():
        start, late = (phases.get(phase) for phase in ("start", "late"))
        ratios = " | ".join("" if one is None else f"{one.ratio:.2f}" for one in (start, late))
        names = dict.fromkeys(one.name for one in (start, late) if one is not None)
        sizes = f"{shape[0]}, {shape[1]:,}, {shape[2]}"
        lines.append(
            f"| {sizes} | {LOSSES.get(loss, loss)}, {precision} | {ratios} | "
            f"{', '.join(names) or 'none was timed'} |"
        )
    return "\n".join(lines) if found else ""


def _steps(document: dict[str, Any]) -> list[str]:
    lines = ["| network | head | images/s | head's share | data, ms |", "|---|---|---|---|---|"]
    for row in document["rows"]:
        setup = f"{row['model']}, {row['size']}x{row['size']}, B = {row['num_rows']}, "
        setup += f"C = {row['num_classes']:,}, {row['precision']}"
        rate = f"{row['images_per_second'][1]:.1f}"
        data = milliseconds(row["ms"]["data"])
        lines.append(f"| {setup} | {row['head']} | {rate} | {row['head_share']:.0%} | {data} |")
    return ["\n".join(lines)]


def _sources(document: dict[str, Any]) -> list[str]:
    lines = ["| source, images/s | augmentation | |", "|---|---|---|"]
    for row in document["rows"]:
        rates = row["images_per_second"]
        shown = row["note"] if rates is None else f"{rates[1]:,.0f}"
        lines.append(f"| {row['source']} | {row['augmentation']} | {shown} |")
    return ["\n".join(lines)]


def rewrite(path: Path, text: str) -> None:
    """Put `text` between the markers of a file.

    Raises:
        ValueError: the file does not hold each marker once, in order.
    """
    before, inside, after = split(path)
    if inside != text:
        path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def split(path: Path) -> tuple[str, str, str]:
    """The text of a file before, between and after its markers, without the markers."""
    content = path.read_text(encoding="utf-8")
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise ValueError(f"{path} must hold {BEGIN} and {END} once each")
    before, rest = content.split(BEGIN)
    inside, after = rest.split(END)
    return before, inside.strip("\n"), after


def _heading(shape: tuple[int, int, int]) -> str:
    return f"Forward + backward at B = {shape[0]}, C = {shape[1]:,}, D = {shape[2]}"


def _table(rows: Sequence[Row], shape: tuple[int, int, int]) -> str:
    by_phase = {
        phase: {row.head: row for row in rows if row.case == Case(*shape, phase)}
        for phase in ("start", "late")
    }
    lines = ["| | start, ms | late, ms | MiB | gradient error |", "|---|---|---|---|---|"]
    for name in dict.fromkeys([*by_phase["start"], *by_phase["late"]]):
        cells = [_time(by_phase[phase].get(name)) for phase in ("start", "late")]
        run = [row for phase in by_phase.values() if (row := phase.get(name)) and row.ms]
        if not run and all(cell in ("", "–") for cell in cells):
            continue  # not installed, or not for this device
        peaks = [row.peak_extra_mib for row in run if row.peak_extra_mib is not None]
        peak = f"{max(peaks):.0f}" if peaks else ""
        lines.append(
            f"| {LABELS.get(name, name)} | {cells[0]} | {cells[1]} | {peak} | {_error(run)} |"
        )
    return "\n".join(lines)


def _time(row: Row | None) -> str:
    if row is None:
        return ""
    if row.ms:
        return milliseconds(row.ms["both"][1])
    return row.note if row.note == "out of memory" else "–"


def _error(rows: Sequence[Row]) -> str:
    errors = [row.errors or {} for row in rows]
    gradients = [e[name] for e in errors for name in ("embeddings", "weight") if name in e]
    return f"{max(gradients):.0e}" if gradients else ""
