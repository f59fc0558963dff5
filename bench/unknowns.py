"""What the performance model of the kernels assumes about a GPU, measured next to the assumption.

Run: python cli.py bench unknowns

    L2 bandwidth         reads of a buffer that stays in L2
    gap of a graph node  how much longer a CUDA graph takes for each further kernel of one number
    programs             the flash and centres kernels with two against three programs a multiprocessor

Not run on a GPU yet: the tests execute the reading kernel in Triton's interpreter, and the parts around
the kernels with a clock of their own.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from fusedface.bench.failures import FAILURES, failure
from fusedface.kernels.gpu import choice, launch, tuning
from fusedface.kernels.gpu.choice import Case
from fusedface.kernels.gpu.launch import Start
from fusedface.kernels.gpu.tiles import Tile
from fusedface.kernels.gpu.tuning import Measure, median_ms

SHAPE = (512, 85_742, 128)  # B, C, D of the kernels with two and three programs
READ_BYTES, READ_BLOCK, READ_REPEATS = 2**24, 2048, 512  # the buffer fits half of an H100's L2
READERS = 2**12  # programs: several waves, so that the end of the last one hardly counts
FEW_NODES, MANY_NODES = 100, 1100
Rows = list[dict[str, Any]]
ASSUMED = {"L2": "7.5 TB/s", "node": "1.5 to 2 us", "flash": "28 us", "centres": "32 us"}
"""docs/performance.md, and its design: of the kernels the times with three programs."""


def run(
    device: torch.device,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
    measure: Measure = median_ms,
    shape: tuple[int, int, int] = SHAPE,
    on_rows: Callable[[Rows], None] = lambda rows: None,  # noqa: ARG005
) -> Rows:
    """One row per figure: `what`, `measured` in `unit`, and what is `assumed`.

    A figure that fails has a row without `measured`, whose `note` says why; the others are still taken.

    Args:
        device: a GPU.
        note: called with what is being done.
        measure: milliseconds of a call on a device.
        shape: B, C and D of the step whose kernels run with two and three programs.
        on_rows: called with all rows so far, after each figure.

    Raises:
        ValueError: the device is not a GPU.
    """
    if device.type != "cuda":
        raise ValueError(f"bench unknowns measures a GPU, and the device is {device.type}")
    rows: Rows = []
    figures: dict[str, Callable[[], Rows]] = {
        "reading from L2": lambda: [
            _row("L2 bandwidth", read_rate(device, measure) / 1e12, "TB/s", ASSUMED["L2"])
        ],
        "graphs of small kernels": lambda: [
            _row("gap of a graph node", 1e6 * node_seconds(device), "us", ASSUMED["node"])
        ],
        "two and three programs a multiprocessor": lambda: programs(device, shape, measure),
    }
    for what, take in figures.items():
        note(what)
        try:
            rows += take()
        except FAILURES as error:
            rows.append(_row(what, None, "", "") | {"note": failure(error)})
        on_rows(rows)
    return rows


def read_rate(device: torch.device, measure: Measure, readers: int = READERS) -> float:
    """Bytes a second that all multiprocessors read from L2."""
    from fusedface.bench.read_kernel import read_kernel

    numbers = torch.ones(READ_BYTES // 4, device=device)
    sums = torch.empty(readers * READ_BLOCK, device=device)
    num_blocks = len(numbers) // READ_BLOCK
    options: dict[str, Any] = {"REPEATS": READ_REPEATS, "BLOCK": READ_BLOCK}

    def read() -> None:
        read_kernel[(readers,)](numbers, sums, num_blocks, **options)

    seconds = 1e-3 * measure(read, device)
    if not (sums == READ_REPEATS).all():
        raise RuntimeError("the kernel that reads L2 did not read what is there")
    return 4.0 * READ_BLOCK * READ_REPEATS * readers / seconds


def node_seconds(device: torch.device) -> float:
    """Seconds that a CUDA graph takes for one more small kernel, which waits for the one before."""
    few, many = (median_ms(_graph(n, device), device) for n in (FEW_NODES, MANY_NODES))
    return 1e-3 * (many - few) / (MANY_NODES - FEW_NODES)


def _graph(num_nodes: int, device: torch.device) -> Callable[[], object]:
    number = torch.zeros(1, device=device)
    number.add_(1.0)  # loads the kernel before the capture
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(num_nodes):
            number.add_(1.0)
    return graph.replay


def programs(
    device: torch.device, shape: tuple[int, int, int], measure: Measure
) -> list[dict[str, Any]]:
    """The first tile shape of flash and centres with three programs a multiprocessor, and with two.

    With two, a further stage of the loop takes so much shared memory that a third program does not fit, and
    flash has fewer splits of the classes. Registers stay as they are.
    """
    rows: list[dict[str, Any]] = []

    def time_both(case: Case, run: Callable[[Tile, Start], object]) -> None:
        if case.kernel not in ("flash", "centres") or any(case.kernel in r["what"] for r in rows):
            return
        first = choice.ranked(case, device)[0]
        for count, tile in ((3, first), (2, with_two(first))):
            run(tile, launch.start)
            times = [measure(lambda tile=tile: run(tile, launch.start), device) for _ in range(3)]
            what = f"{case.kernel}, {count} programs a multiprocessor"
            assumed = ASSUMED[case.kernel] if count == 3 else "slower"
            rows.append(_row(what, 1e3 * statistics.median(times), "us", assumed))

    with choice.decided.watched_by(time_both):
        tuning.step(*shape, "bfloat16", device)
    return rows


def with_two(tile: Tile) -> Tile:
    """The tile shape with one more stage: two of its programs fill the shared memory (sm_90)."""
    return replace(tile, programs=2, num_stages=tile.num_stages + 1)


def _row(what: str, measured: float | None, unit: str, assumed: str) -> dict[str, Any]:
    return {"what": what, "measured": measured, "unit": unit, "assumed": assumed}
