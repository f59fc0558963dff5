"""Run as a script: kills a tiny run with SIGKILL at many moments, resumes it, and compares weights.

Prints a JSON object: scenario -> "same", or what differs. A child is forked for each attempt, from a
process that has imported everything and computed nothing (forking after OpenMP has started hangs).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import torch._dynamo  # an optimiser would: once here, not in every child
from rich.console import Console
from small_models import shortened
from tiny_run import flat, tiny_recipe
from torch.utils import tensorboard  # noqa: F401  imported once here, not in every child

from fusedface.recipes.report import curves
from fusedface.recipes.run import run_recipe
from fusedface.recipes.run_directory import files
from fusedface.recipes.run_directory.metrics import MetricsLog
from fusedface.recipes.training import checkpoint, trainer

NUM_STEPS = 12


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(owner, name, count, before):
    """Make the call number `count` of a function fatal: before it does anything, or after."""
    original, calls = getattr(owner, name), []

    def replacement(*args, **kwargs):
        calls.append(None)
        if before and len(calls) == count:
            die()
        result = original(*args, **kwargs)
        if not before and len(calls) == count:
            die()
        return result

    setattr(owner, name, replacement)


def while_saving(count):
    """Die with half of a checkpoint's bytes written."""
    original, calls = torch.save, []

    def half(content, file):
        calls.append(None)
        original(content, file)
        if len(calls) == count:
            file.flush()
            path = file.file.name
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    checkpoint.torch.save = half


def while_logging(count):
    """Die with half of a line of metrics written."""
    original, calls = MetricsLog.write, []

    def half(self, kind, step, figures):
        calls.append(None)
        if len(calls) == count:
            self._file.write('{"kind": "train", "st')
            self._file.flush()
            die()
        original(self, kind, step, figures)

    MetricsLog.write = half


MOMENTS = {
    "before any checkpoint": lambda: on_call(trainer.Trainer, "_train_step", 2, before=True),
    "between checkpoint and log line": lambda: on_call(
        trainer.Trainer, "_train_step", 6, before=True
    ),
    "in the middle of an epoch": lambda: on_call(trainer.Trainer, "_train_step", 8, before=False),
    "while a checkpoint is written": lambda: while_saving(2),
    "after a checkpoint is renamed": lambda: on_call(files.os, "replace", 4, before=False),
    "before a checkpoint is renamed": lambda: on_call(files.os, "replace", 4, before=True),
    "while a line is written": lambda: while_logging(5),
    "after the last checkpoint": lambda: on_call(trainer.Trainer, "_train_step", 12, before=False),
}


def attempt(folder, out, prepare=None, after_seconds=None):
    """Run in a child; whether it came to its end."""
    child = os.fork()
    if child == 0:
        if prepare is not None:
            prepare()
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            run_recipe(
                tiny_recipe(folder), out, resume=True, device="cpu", console=Console(file=nowhere)
            )
        os._exit(0)
    if after_seconds is not None:
        time.sleep(after_seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0


def truncate_newest(out):
    newest = max((out / "checkpoints").glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1000])


def compare(out, reference):
    """ "same", or the entries of the last checkpoint that differ."""
    name = f"checkpoints/step-{NUM_STEPS:08d}.pt"
    ours, theirs = (flat(torch.load(run / name, weights_only=True)) for run in (out, reference))
    timed = {f"/progress/{name}" for name in ("seconds", "train_seconds", "cpu_seconds")}
    different = [
        key
        for key in ours.keys() | theirs.keys()
        if key not in timed
        and not (
            torch.equal(ours[key], theirs[key])
            if isinstance(ours.get(key), torch.Tensor)
            else ours.get(key) == theirs.get(key)
        )
    ]
    for run_file, keys in (("metrics.jsonl", {"images_per_second", "seconds"}),):
        a, b = (
            [
                {k: v for k, v in json.loads(line).items() if k not in keys}
                for line in (run / run_file).read_text(encoding="utf-8").splitlines()
            ]
            for run in (out, reference)
        )
        if a != b:
            different.append(run_file)
    return "same" if not different else sorted(different)


def main(folder, random_kills):
    shortened(pytest.MonkeyPatch())
    curves.plot_curves = (
        lambda _folder: []
    )  # as long as the rest of a run, and not in question here
    results = {}
    reference = folder / "reference"
    began = time.perf_counter()
    assert attempt(folder, reference)
    duration = time.perf_counter() - began

    for name, prepare in MOMENTS.items():
        out = folder / name.replace(" ", "-")
        assert not attempt(folder, out, prepare), f"{name}: was not killed"
        assert attempt(folder, out), f"{name}: did not end"
        results[name] = compare(out, reference)

    out = folder / "damaged"
    assert not attempt(folder, out, MOMENTS["in the middle of an epoch"])
    truncate_newest(out)
    assert attempt(folder, out)
    results["killed, and the newest checkpoint truncated"] = compare(out, reference)

    out = folder / "random"
    for _ in range(random_kills):
        seconds = int.from_bytes(os.urandom(2)) / 2**16 * duration
        attempt(folder, out, after_seconds=seconds)
    assert attempt(folder, out)
    results["killed at random, again and again"] = compare(out, reference)
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
