"""Mutation testing: change the code in one place, and see whether a test notices.

    python tests/mutate.py --each 15 --seed 0                         kernels, training, evaluation
    python tests/mutate.py kernels/unit.py recipes/training/optim.py  these, every mutant
    python tests/mutate.py --replace data/align.py OLD NEW            one mutant of your own

Works on a copy below build/mutation, in one process. First it runs the tests once and records which
functions each calls, which takes some minutes; later only modules of tests that are new or changed or
called a file that has moved, or all with --record. A mutant then meets only the tests that call its
function, until one fails: first those of the module that has found most mutants of its file, then quick
modules. Code that runs at import meets the tests of its file. What is done is kept: the same command goes
on where it was stopped, by hand or by --minutes, and --again repeats survivors after tests were written.
The score of a file is the share of its mutants that some test noticed. With --each N it is of N mutants a
file, drawn by the seed, or of all where there are fewer; a larger N adds to a smaller one.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from mutation.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "mutation"
TREE, SITE = BUILD / "tree", BUILD / "site"
FOUND, REACH, DONE = (BUILD / name for name in ("found.json", "reach.json", "results.jsonl"))
TARGETS = (
    "kernels", "kernels/interface", "kernels/margins", "recipes/evaluation", "data/pairs.py",
    *(f"recipes/training/{name}.py" for name in (
        "trainer", "learner", "checkpoint", "meter", "optim", "rates", "plan", "batches",
        "learning_rate", "loss_schedule")),
    *(f"recipes/run_directory/{name}.py" for name in ("metrics", "verdict")),
)  # fmt: skip
TESTS = (
    "tests/kernels/test_", "tests/kernels/gpu/test_choice", "tests/models/test_head", "tests/data/",
    "tests/recipes/",
)  # fmt: skip
# Slow, and of what is not a target.
LEFT_OUT = (
    "tests/kernels/test_gpu_interpreter", "tests/data/test_synthetic_render", *(
        f"tests/recipes/test_{n}" for n in ("broken_runs", "compare", "curves", "export", "plots")),
)  # fmt: skip
QUICK = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-p", "no:randomly"]
IMPORTED = (
    "torch", "torch._dynamo", "torch.utils.tensorboard", "triton", "numpy", "scipy.stats", "PIL.Image",
    "matplotlib.pyplot", "hypothesis", "pytest", "rich.console", "typer", "albumentations", "tomli_w",
)  # fmt: skip
MEMORY = 24 << 30  # bytes of address space; a mutant may ask for any
LOOPS = 3  # times its processor time a test may compute
SLOWER = 10  # times its processor time a test may take: it waits, on a busy machine most of all


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", default=TARGETS, help="files or folders")
    parser.add_argument("--each", type=int, help="so many mutants a file, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of tests a mutant, at most")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--record", action="store_true", help="again which test calls what")
    parser.add_argument("--again", action="store_true", help="repeat survivors")
    parser.add_argument("--replace", nargs=3, action="append", metavar=("FILE", "OLD", "NEW"))
    arguments = parser.parse_args()

    stop = time.monotonic() + 60 * arguments.minutes
    copy_tree()
    prepare()
    tests = record(arguments.record, stop)
    todo = (
        [replaced(*texts) for texts in arguments.replace]
        if arguments.replace
        else chosen(arguments.files, arguments.each, arguments.seed)
    )
    done = {} if arguments.replace else known_results(arguments.again)
    killers: dict[str, Counter[str]] = defaultdict(Counter)
    for result in done.values():
        if result["outcome"] == "killed":
            killers[result["file"]][result["by"].split("::")[0]] += 1
    results = []
    for i, (file, mutant) in enumerate(todo, start=1):
        key = sha256(f"{file}\n{mutant.source}".encode()).hexdigest()[:16]
        if key not in done:
            if time.monotonic() > stop:
                print(f"stopped after {i - 1} of {len(todo)} mutants")
                break
            outcome, by = judge(file, mutant, tests, killers[file], arguments.seconds)
            done[key] = {
                "key": key,
                "file": file,
                "mutant": str(mutant),
                "outcome": outcome,
                "by": by,
            }
            with DONE.open("a", encoding="utf-8") as out:
                out.write(json.dumps(done[key]) + "\n")
            print(f"{i}/{len(todo)} {outcome:9} {file}:{mutant}   {by}", flush=True)
        results.append(done[key])
    print(report(sorted(results, key=lambda result: result["file"])))
    return 0


def chosen(files: Iterable[str], each: int | None, seed: int) -> list[tuple[str, Mutant]]:
    """The mutants to try: all in the order of the files, or `each` of every file, drawn at random.

    What is drawn from a file depends on that file and the seed only. The first of every file come first,
    then the second ones: a run that is stopped has looked at all files.
    """
    paths = [p for f in files for p in (sorted((TREE / f).glob("*.py")) or [TREE / f])]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise SystemExit(f"no such file: {', '.join(missing)}")
    every = {str(p.relative_to(TREE)): list(mutants(p.read_text("utf-8"))) for p in paths}
    if each is None:
        return [(file, mutant) for file, of_file in every.items() for mutant in of_file]
    for of_file in every.values():
        random.Random(seed).shuffle(of_file)
    return [(file, m[i]) for i in range(each) for file, m in every.items() if i < len(m)]


def replaced(file: str, old: str, new: str) -> tuple[str, Mutant]:
    """A mutant of one's own, for all tests of its file."""
    source = (TREE / file).read_text("utf-8")
    if source.count(old) != 1:
        raise SystemExit(f"{file} must hold {old!r} once, not {source.count(old)} times")
    line = source[: source.index(old)].count("\n") + 1
    return file, Mutant(line, None, old, new, source.replace(old, new))


def known_results(again: bool) -> dict[str, dict[str, str]]:
    """What earlier runs found, without survivors if those are to be tried again."""
    lines = DONE.read_text("utf-8").splitlines() if DONE.exists() else []
    known = {result["key"]: result for result in map(json.loads, lines)}
    return {
        k: r for k, r in known.items() if not (again and r["outcome"] in ("survived", "unseen"))
    }


def copy_tree() -> None:
    """The checkout as it is, at TREE, importable as `fusedface` from SITE."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    wanted = {name.decode() for name in names if name and (ROOT / name.decode()).is_file()}
    for name in wanted:
        source, copy = ROOT / name, TREE / name
        if not copy.exists() or copy.stat().st_mtime != source.stat().st_mtime:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
    for path in [p for p in TREE.rglob("*.py") if str(p.relative_to(TREE)) not in wanted]:
        path.unlink()
    SITE.mkdir(exist_ok=True)
    if not (SITE / "fusedface").is_symlink():
        (SITE / "fusedface").symlink_to(TREE, target_is_directory=True)


def prepare() -> None:
    """Import once what every fork needs; ours is imported by the forks, from the copy."""
    sys.path.insert(0, str(SITE))
    sys.path.insert(1, str(TREE / "tests"))
    os.environ |= {
        "PYTHONPATH": str(SITE), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
        "FUSEDFACE_ROOT": f"{SITE}/fusedface/",
    }  # fmt: skip
    for name in IMPORTED:
        __import__(name)


def run_tests(
    arguments: list[str], seconds: float | None, order: dict[str, int] | None
) -> tuple[int | None, str]:
    """pytest in a fork; its exit code, None where it was stopped, and the first test that failed.

    Args:
        arguments: of pytest.
        seconds: the processor time that the tests need without a mutant; None for no limit.
        order: the tests to run, each with its position; None for all.
    """
    said = BUILD / "output.txt"
    child = os.fork()
    if child == 0:
        os.setsid()
        with said.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(TREE)
        import resource

        import pytest

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (30 + int(LOOPS * seconds),) * 2)  # SIGKILL

        sys.dont_write_bytecode = order is not None
        plugins = [] if order is None else [_Selected(order)]
        os._exit(int(pytest.main([*arguments, f"--basetemp={BUILD}/tmp"], plugins=plugins)))
    end = math.inf if seconds is None else time.monotonic() + 60 + SLOWER * seconds
    try:
        while time.monotonic() < end:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                child, code = None, os.waitstatus_to_exitcode(status)
                text = said.read_text("utf-8", errors="replace")
                failed = [
                    line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))
                ]
                name = failed[0].split(" - ")[0].split(" ", 1)[1] if failed else ""
                return None if code == -signal.SIGKILL else code, name
            time.sleep(0.02)
        return None, ""
    finally:
        if child is not None:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


class _Selected:
    """Keeps the tests of `order` and runs them in it.

    A mutant may change the name of a test, which holds its parameters: where one is not found, all of
    that function take its place.
    """

    def __init__(self, order: dict[str, int]) -> None:
        self.order = order

    def pytest_collection_modifyitems(self, items):
        missing = self.order.keys() - {item.nodeid for item in items}
        renamed = {name.split("[")[0]: self.order[name] for name in missing}
        positions = [
            self.order.get(item.nodeid, renamed.get(item.nodeid.split("[")[0])) for item in items
        ]
        found = [(at, i) for i, at in enumerate(positions) if at is not None]
        items[:] = [items[i] for _, i in sorted(found)]


def record(everything: bool, stop: float) -> dict[str, dict[str, Any]]:
    """Which test calls what and in what time, of every module of tests as it is now.

    Exits between two modules when the clock is past `stop`, and goes on from there the next time.
    """
    known = json.loads(REACH.read_text("utf-8")) if REACH.exists() and not everything else {}
    digests = {m: sha256((TREE / m).read_bytes()).hexdigest()[:16] for m in test_modules()}
    known = {m: entry for m, entry in known.items() if entry["digest"] == digests.get(m)}
    known = {m: entry for m, entry in known.items() if not _calls_what_has_moved(entry)}
    new = [module for module in digests if module not in known]
    for i, module in enumerate(new):
        if time.monotonic() > stop:
            raise SystemExit(f"stopped: what {len(new) - i} modules of tests call is not recorded")
        print(f"recording what {module} calls ({i + 1} of {len(new)})", flush=True)
        FOUND.write_text("{}", encoding="utf-8")
        os.environ["FUSEDFACE_REACH"] = str(FOUND)
        code, name = run_tests([*QUICK[1:], "-p", "mutation.reach", module], None, None)
        del os.environ["FUSEDFACE_REACH"]
        if code != 0:
            output = (BUILD / "output.txt").read_text("utf-8", errors="replace")
            print(f"{output}without a mutant pytest ends with {code} {name}", flush=True)
        found = json.loads(FOUND.read_text("utf-8"))
        known[module] = {"digest": digests[module], "tests": found}
        REACH.write_text(json.dumps(known), encoding="utf-8")
    tests = {name: entry for module in known.values() for name, entry in module["tests"].items()}
    for entry in tests.values():
        entry["calls"] = {tuple(call) for call in entry["calls"]}
    return tests


def _calls_what_has_moved(entry: dict[str, Any]) -> bool:
    called = {file for test in entry["tests"].values() for file, _ in test["calls"]}
    return not all((TREE / file).is_file() for file in called)


def test_modules() -> list[str]:
    """The modules of tests that may see a target."""
    names = sorted(str(p.relative_to(TREE)) for p in (TREE / "tests").rglob("test_*.py"))
    return [n for n in names if n.startswith(TESTS) and not n.startswith(LEFT_OUT)]


def judge(
    file: str, mutant: Mutant, tests: dict[str, dict[str, Any]], killers: Counter[str], most: float
) -> tuple[str, str]:
    """killed, time-out, survived or unseen (no test calls it); and by which test.

    Args:
        file: the mutant's.
        mutant: the change.
        tests: of `record`.
        killers: how many mutants of this file each module of tests has killed; counted on here.
        most: seconds of tests, as recorded, after which a mutant has survived; quick ones are taken.
    """
    order = selected(file, mutant, tests, killers, most)
    if not order:
        return "unseen", ""
    path = TREE / file
    original, times = path.read_bytes(), path.stat()
    try:
        path.write_text(mutant.source, encoding="utf-8")
        os.utime(path, (0, 0))  # no compiled file is of that time
        first = [name for name in order if name.split("::")[0] == order[0].split("::")[0]]
        for part in (first, order[len(first) :]):  # most mutants need no more than one module
            seconds = sum(tests[name]["seconds"] for name in part)
            modules = dict.fromkeys(name.split("::")[0] for name in part)
            positions = {name: i for i, name in enumerate(part)}
            code, failed = run_tests([*QUICK, *modules], seconds, positions) if part else (0, "")
            if code is None:
                return "time-out", f"tests of {seconds:.0f} s"
            if code != 0:
                killers[failed.split("::")[0]] += 1
                return "killed", failed or f"exit code {code}"
    finally:
        path.write_bytes(original)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return "survived", f"{len(order)} tests"


def selected(
    file: str, mutant: Mutant, tests: dict[str, dict[str, Any]], killers: Counter[str], most: float
) -> list[str]:
    """The tests that call the mutant's function, in the order to run them: as `judge`."""
    seen = [
        name
        for name, test in tests.items()
        if (file, mutant.function) in test["calls"]
        or (mutant.function is None and any(path == file for path, _ in test["calls"]))
    ]
    of_module: dict[str, list[str]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for name in sorted(seen, key=lambda name: tests[name]["seconds"]):
        if not seconds or sum(seconds.values()) + tests[name]["seconds"] <= most:
            module = name.split("::")[0]
            of_module[module].append(name)
            seconds[module] += tests[name]["seconds"]
    modules = sorted(of_module, key=lambda module: (-killers[module], seconds[module]))
    return [name for module in modules for name in of_module[module]]


def report(results: list[dict[str, str]]) -> str:
    """The score of each file, and the survivors."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        counts[result["file"]][result["outcome"]] += 1
    counts["all"] = sum(counts.values(), Counter())
    lines = [f"\n{'file':36}{'mutants':>8}{'killed':>8}{'survived':>9}{'unseen':>8}{'score':>8}"]
    for file, n in counts.items():
        killed = n["killed"] + n["time-out"]
        score = killed / max(1, n.total())
        lines.append(
            f"{file:36}{n.total():8}{killed:8}{n['survived']:9}{n['unseen']:8}{score:8.1%}"
        )
    left = [r for r in results if r["outcome"] in ("survived", "unseen")]
    lines += ["", "survivors:" if left else "no survivors"]
    lines += [
        f"{r['file']}:{r['mutant']}   ({r['outcome']}, {r['by'] or 'no test calls it'})"
        for r in left
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
