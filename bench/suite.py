"""All tests and benchmarks of the head on a GPU, in parts that fit into nine minutes.

Run: python -m bench gpu-suite --out gpu           (the same folder again resumes)
     python -m bench gpu-suite --out try --device cpu --quick

Each part has a budget (suite_parts.py), all together under nine minutes. What the parts leave of the time
goes to those that are not finished, in a second round; a part that was stopped at its limit gets twice its
budget then, and when the command is given again. Parts that were not run on a GPU yet: all.

The folder holds suite.json (the finished parts), log.txt (all output), a JSON file for each part, and
tuning.json (the fastest tile shapes, which later parts use). Each part is a separate process with a time
limit. It writes results as it goes, so a kill loses at most the current work. An illegal access of memory
ends its process, which then begins again without the head that made it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fusedface.bench import results
from fusedface.bench.suite_parts import AHEAD, Part, plan
from fusedface.bench.suite_table import print_summary
from fusedface.recipes.host.terminal import say

ROOT = Path(__file__).resolve().parents[1]
GRACE = 8.0  # seconds before the limit of a part, in which it should end by itself
STOPPED = "stopped at its limit"
SHORTEST = 15.0  # seconds; with less time left no part begins


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
    chosen, suite = _chosen(parts, only), Suite(out, device)

    def do(part: Part) -> None:
        told = suite.do_if_possible(part, deadline - time.monotonic() - GRACE)
        say(console, f"{part.name}: {told}")

    for part in chosen:
        do(part)
    # Kernels are compiled by now. Tests begin from the first again, so they come last.
    for part in sorted(chosen, key=lambda part: part.is_tests):
        if not suite.is_finished(part.name) and part.name != AHEAD:
            do(part)
    print_summary(out, console)
    return all(suite.is_finished(part.name) for part in parts)


def _chosen(parts: Sequence[Part], only: Sequence[str]) -> Sequence[Part]:
    """The parts of these names; without names, all."""
    if unknown := set(only) - {part.name for part in parts}:
        names = ", ".join(part.name for part in parts)
        raise ValueError(f"no part {', '.join(sorted(unknown))}; there are {names}")
    return [part for part in parts if part.name in only] if only else parts


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

    def do_if_possible(self, part: Part, left: float) -> str:
        """Run a part unless it is finished or fewer than SHORTEST seconds are left; as `do`."""
        if self.is_finished(part.name):
            return "done before"
        if left < SHORTEST:
            return f"no time left (budget {part.seconds:.0f} s)"
        return self.do(part, min(self.budget(part), left))

    def budget(self, part: Part) -> float:
        """Seconds for a part: its budget, and twice as many if that was too little the last time."""
        stopped = self.done.get(part.name, {}).get("state") == STOPPED
        return part.seconds * (2.0 if stopped else 1.0)

    def do(self, part: Part, seconds: float) -> str:
        """Run a part with a time limit in seconds; returns one line on its outcome."""
        began, lost = time.monotonic(), self._num_lost(part)
        file = self._file(part)
        code, output = self._execute(self._command(part, file, seconds), seconds)
        while code and self._num_lost(part) > lost:  # it goes on without the head that lost the GPU
            lost, left = self._num_lost(part), seconds - (time.monotonic() - began)
            if left < SHORTEST:
                break
            code, more = self._execute(self._command(part, file, left), left)
            output += more
        self._keep_longer(part, file)
        facts = {"result": _last_line(output)} if part.is_tests else self._cases(part)
        row = {
            "part": part.name,
            "state": self._state(part, code, facts),
            "seconds": round(time.monotonic() - began, 1),
            "budget": round(seconds),
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

    def _file(self, part: Part) -> Path:
        """Where a part writes: what cannot go on begins again, next to what it has written before."""
        first = self.out / f"{part.name}.json"
        return (
            first if part.num_cases or not first.exists() else self.out / f"{part.name}-again.json"
        )

    def _keep_longer(self, part: Part, file: Path) -> None:
        """Of two files of a part keep the one with more rows, or the newer one."""
        first = self.out / f"{part.name}.json"
        if file != first and file.exists():
            newer, older = (len(results.read(path)["rows"]) for path in (file, first))
            file.replace(first) if newer >= older else file.unlink()

    def _command(self, part: Part, file: Path, seconds: float) -> list[str]:
        if part.is_tests:
            return [sys.executable, "-m", *part.arguments]
        own = [*part.arguments, "--out", str(file)]
        own += ["--device", str(self.device)]
        if part.num_cases:
            own += ["--resume", "--minutes", f"{(seconds - GRACE) / 60:.3f}"]
        return [sys.executable, "-m", "fusedface.bench", *own]

    def _execute(self, command: list[str], seconds: float) -> tuple[int | None, str]:
        """Exit status (None: stopped at the limit) and output of a command, which also goes to the log."""
        environment = os.environ | {"FUSEDFACE_CACHE": str(self.out), "PYTHONUNBUFFERED": "1"}
        # Else Inductor sets another folder at its first compilation: an empty one.
        environment.setdefault("TRITON_CACHE_DIR", str(Path.home() / ".triton" / "cache"))
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

    def _num_lost(self, part: Part) -> int:
        """Heads to which a process of a part has lost the GPU; it may have ended in any way after that."""
        path = self.out / f"{part.name}.json"
        return len(results.read(path).get("lost", {})) if path.exists() else 0

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
            return STOPPED
        if part.is_tests:
            return "finished" if code in (0, 1, 5) else "failed"  # 5: no test for this device
        if code != 0:
            return "failed"
        wanted = f"{part.num_cases} of {part.num_cases}"
        return (
            "finished" if not part.num_cases or facts.get("cases") == wanted else "to be continued"
        )


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
