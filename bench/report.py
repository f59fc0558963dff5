"""Results as a table for people and as JSON for later."""

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from fusedface.bench.kernels import Row


def machine(device: torch.device) -> dict[str, object]:
    """What the figures were taken on."""
    facts: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    return facts


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_json(rows: Sequence[Row], device: torch.device, path: Path) -> None:
    """Rows and machine, one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(device), "rows": [row.as_dict() for row in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def print_table(rows: Sequence[Row], device: torch.device, console: Console) -> None:
    """One table a case; slower providers are those with a larger ratio."""
    facts = machine(device)
    for case in dict.fromkeys(row.case for row in rows):
        table = Table(title=str(case), title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("forward + backward", no_wrap=True)
        for heading in ("ms", "25-75 %", "x fused", "MiB", "error"):
            table.add_column(heading, justify="right")
        for row in rows:
            if row.case == case:
                table.add_row(*_cells(row))
        console.print(table)
    console.print(
        f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}, {facts['date']}. "
        "ms: median. x fused: over our float32 head with the same loss, median of paired runs. "
        "MiB: peak beyond the inputs, gradients included. error: of the loss, relative, against float64."
    )


def _cells(row: Row) -> tuple[str, ...]:
    if row.median_ms is None:
        return row.provider, row.note, "", "", "", ""
    return (
        row.provider,
        f"{row.median_ms:.0f}",
        f"{row.low_ms:.0f}-{row.high_ms:.0f}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.peak_extra_mib is None else f"{row.peak_extra_mib:.0f}",
        "" if row.loss_error is None else f"{row.loss_error:.1e}",
    )
