"""All tests and benchmarks of the head on a GPU, in parts that fit into a short session.

Run: python -m bench gpu_suite --out gpu           (the same folder again resumes)
     python -m bench gpu_suite --out try --device cpu --quick

The folder holds suite.json (the finished parts), log.txt (all output), a JSON file for each part, and
tuning.json (the fastest tile shapes, which later parts use). Each part is a separate process with a time
limit. It writes results as it goes, so a kill loses at most the current work.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fusedface.bench import results, tables
from fusedface.recipes.host.terminal import Table, say

ROOT = Path(__file__).resolve().parents[1]
GRACE = 8.0  # seconds before the limit of a part, in which it should end by itself
SHORTEST = 15.0  # seconds; with less time left no part begins
OURS_AND_SMALL = ("fused", "official", "partial fc", "pytorch", "linear_cross", "liger", "cut-")
# Compiling the eager formulation for a shape takes longer than timing it.
OF_LARGE = (
    "fused curricularface",
    "fused normface",
    "eager",
    "official",
    "linear_cross",
    "liger",
    "cut-",
)

KERNEL_SHAPES = (
    "512x85742x128",
    "512x85742x512",
    "256x85742x128",
    "256x10572x128",
    "256x85742x512",
)
LARGE_SHAPES = ("1024x360232x512", "1024x2000000x512", "4096x1000000x512", "512xmaxx512")
ERROR_SHAPES = ("130x3001x128", "63x9970x512")
TUNED_SHAPES = ("512x85742x128", "512x85742x512")


@dataclass(frozen=True)
class Part:
    """A command of `bench` (or pytest), its time limit, and the number of cases in its finished file."""

    name: str
    seconds: float
    arguments: tuple[str, ...]
    num_cases: int = 0

    @property
    def is_tests(self) -> bool:
        """Whether the part is pytest, which writes no result file."""
        return self.arguments[0] == "pytest"


def plan(device: torch.device, quick: bool, skip: Sequence[str] = ()) -> list[Part]:
    """The parts, the most important first; `skip` as in `bench kernels`."""
    skipped = [word for text in skip for word in ("--skip", text)]
    small = ("32x500x32", "32x800x64") if quick else None
    shapes = {
        "errors": small or ERROR_SHAPES,
        "kernels": small or KERNEL_SHAPES,
        "large": small or LARGE_SHAPES,
    }
    tests = (
        "pytest",
        "tests/kernels/gpu",
        "-m",
        "gpu",
        "-vv",
        "--no-header",
        "-p",
        "no:cacheprovider",
    )
    if find_spec("xdist") is not None:
        tests += ("-n", "4")  # compiling on the host takes most of the time
    short = ("--steps", "3", "--batch", "8", "--classes", "6", "--size", "32") if quick else ()
    parts = [
        Part("tests", 150.0, tests),
        _kernels(
            "errors", 45.0, shapes["errors"],
            "--rounds", "0", "--no-memory", *_only(OURS_AND_SMALL), *skipped,
        ),
        _kernels("kernels", 150.0, shapes["kernels"], "--rounds", "15", "--seconds", "4", *skipped),
        _kernels(
            "large", 110.0, shapes["large"],
            "--rounds", "9", "--seconds", "5", "--skip", "compiled", *_only(OF_LARGE), *skipped,
        ),
        Part("convergence", 60.0, ("convergence", "--minutes", "0.3", *short)),
    ]  # fmt: skip
    if device.type == "cuda":
        shapes_to_tune = [word for shape in TUNED_SHAPES for word in ("--shape", shape)]
        parts.insert(2, Part("tune", 130.0, ("tune", *shapes_to_tune)))
    return parts


def run(
    out: Path,
    device: torch.device,
    minutes: float,
    only: Sequence[str],
    quick: bool,
    console: Console,
    skip: Sequence[str] = (),
) -> bool:
    """Run the unfinished parts until the time is over.

    Returns:
        Whether all parts are finished.

    Raises:
        ValueError: `only` names no part.
    """
    deadline = time.monotonic() + 60.0 * minutes
    parts = plan(device, quick, skip)
    if unknown := set(only) - {part.name for part in parts}:
        names = ", ".join(part.name for part in parts)
        raise ValueError(f"no part {', '.join(sorted(unknown))}; there are {names}")
    suite = Suite(out, device)
    for part in parts:
        if only and part.name not in only:
            continue
        left = deadline - time.monotonic() - GRACE
        if suite.is_finished(part.name):
            say(console, f"{part.name}: done before")
        elif left < SHORTEST:
            say(console, f"{part.name}: no time left")
        else:
            say(console, f"{part.name}: {suite.do(part, min(part.seconds, left))}")
    _print_summary(out, console)
    return all(suite.is_finished(part.name) for part in parts)


class Suite:
    """The folder of a suite: it records finished parts and runs the others."""

    def __init__(self, out: Path, device: torch.device) -> None:
        self.out, self.device = out.resolve(), device
        self.out.mkdir(parents=True, exist_ok=True)
        self.state = self.out / "suite.json"
        self.done: dict[str, dict[str, Any]] = {}
        if self.state.exists():
            rows = results.read(self.state)["rows"]
            self.done = {row["part"]: row for row in rows}

    def is_finished(self, name: str) -> bool:
        """Whether a part is finished."""
        return self.done.get(name, {}).get("state") == "finished"

    def do(self, part: Part, seconds: float) -> str:
        """Run a part with a time limit in seconds; returns one line on its outcome."""
        began = time.monotonic()
        code, output = self._execute(self._command(part, seconds), seconds)
        facts = {"result": _last_line(output)} if part.is_tests else self._cases(part)
        row = {
            "part": part.name,
            "state": self._state(part, code, facts),
            "seconds": round(time.monotonic() - began, 1),
            "exit": code,
            **facts,
        }
        if row["state"] != "finished":
            row["end"] = output[-1500:]
        self.done[part.name] = row
        document = results.document("gpu-suite", self.device, list(self.done.values()))
        results.write_json(self.state, document)
        return ", ".join(
            f"{key} {value}" for key, value in row.items() if key not in ("part", "end")
        )

    def _command(self, part: Part, seconds: float) -> list[str]:
        if part.is_tests:
            return [sys.executable, "-m", *part.arguments]
        own = [*part.arguments, "--out", str(self.out / f"{part.name}.json")]
        own += ["--device", str(self.device)]
        if part.num_cases:
            own += ["--resume", "--minutes", f"{(seconds - GRACE) / 60:.3f}"]
        return [sys.executable, "-m", "fusedface.bench", *own]

    def _execute(self, command: list[str], seconds: float) -> tuple[int | None, str]:
        """Exit status (None: stopped at the limit) and output of a command, which also goes to the log."""
        environment = os.environ | {"FUSEDFACE_CACHE": str(self.out), "PYTHONUNBUFFERED": "1"}
        log = self.out / "log.txt"
        with log.open("a", encoding="utf-8", errors="replace") as file:
            print(f"\n$ {' '.join(command[2:])}", file=file, flush=True)
            start = file.tell()
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment,
                start_new_session=True,
            )  # fmt: skip
            code = _wait(process, seconds)
        with log.open(encoding="utf-8", errors="replace") as file:
            file.seek(start)
            return code, file.read()

    def _cases(self, part: Part) -> dict[str, Any]:
        path = self.out / f"{part.name}.json"
        if not path.exists():
            return {}
        rows = results.read(path)["rows"]
        if not part.num_cases:
            return {"rows": len(rows)}
        cases = {tuple(row["case"].values()) for row in rows}
        return {"cases": f"{len(cases)} of {part.num_cases}"}

    def _state(self, part: Part, code: int | None, facts: dict[str, Any]) -> str:
        if code is None:
            return "stopped at its limit"
        if part.is_tests:
            return "finished" if code in (0, 1, 5) else "failed"  # 5: no test for this device
        if code != 0:
            return "failed"
        wanted = f"{part.num_cases} of {part.num_cases}"
        return (
            "finished" if not part.num_cases or facts.get("cases") == wanted else "to be continued"
        )


def _kernels(name: str, seconds: float, shapes: Sequence[str], *options: str) -> Part:
    repeated = [word for shape in shapes for word in ("--shape", shape)]
    num_cases = 2 * len(shapes)  # both phases
    return Part(name, seconds, ("kernels", *repeated, *options), num_cases)


def _only(texts: Sequence[str]) -> list[str]:
    return [word for text in texts for word in ("--only", text)]


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        # The group includes its children: compilers and pytest workers.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def _last_line(output: str) -> str:
    """The last line of pytest, which counts passed and failed tests; their names are in the log."""
    return next((line for line in reversed(output.splitlines()) if line.strip()), "")


COLUMNS: dict[str, Callable[[str], bool]] = {
    "ours bf16": lambda name: name == "fused curricularface bfloat16",
    "in graph": lambda name: name.endswith("CUDA graph"),
    "ours f32": lambda name: name == "fused curricularface float32",
    "official": lambda name: name == "official curricularface",
    "eager bf16": lambda name: name == "eager curricularface bfloat16",
    "compiled bf16": lambda name: name == "compiled eager curricularface bfloat16",
    "torch lce": lambda name: name.startswith("torch linear_cross_entropy"),
    "liger bf16": lambda name: name == "liger normface bfloat16",
    "cce bf16": lambda name: name == "cut-cross-entropy normface bfloat16",
}


def _print_summary(out: Path, console: Console) -> None:
    """Print forward and backward of the main alternatives in milliseconds, one line per case."""
    table = Table("forward + backward, ms", ["case"], [*COLUMNS, "ours of limit"])
    for name in ("kernels", "large"):
        path = out / f"{name}.json"
        if path.exists():
            for case, rows in _by_case(results.read(path)["rows"]).items():
                table.add_row(case, *_line(rows))
    console.print(table)


def _by_case(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        case = row["case"]
        sizes = f"{case['num_rows']}x{case['num_classes']}x{case['dim']} {case['phase']}"
        cases.setdefault(sizes, []).append(row)
    return cases


def _line(rows: Sequence[dict[str, Any]]) -> list[str]:
    cells = []
    for is_it in COLUMNS.values():
        row = next((row for row in rows if is_it(row["head"])), None)
        cells.append("" if row is None else _cell(row))
    ours = next((row for row in rows if COLUMNS["ours bf16"](row["head"])), {})
    share = ours.get("of_limit")
    return [*cells, "" if share is None else f"{share:.0%}"]


def _cell(row: dict[str, Any]) -> str:
    if row["ms"]:
        return tables.milliseconds(row["ms"]["both"][1])
    return "OOM" if row["note"] == "out of memory" else "no" if row["note"] else ""
