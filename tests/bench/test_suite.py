"""The suite: parts within their limits, done once, and what is known of one that was killed."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fusedface.bench import results, suite, suite_parts
from fusedface.bench.suite import Suite
from fusedface.bench.suite_parts import Part

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
CPU = torch.device("cpu")


def python(code):
    """A part that is a program: its command is replaced by the fixture below."""
    return Part("kernels", 60.0, ("kernels", code), num_cases=2)


@pytest.fixture
def programs(monkeypatch):
    monkeypatch.setattr(
        Suite,
        "_command",
        lambda self, part, file, seconds: [sys.executable, "-c", part.arguments[1], str(file)],
    )


def rows(num_cases):
    cases = [
        {"num_rows": n, "num_classes": 2, "dim": 3, "phase": "start"} for n in range(num_cases)
    ]
    content = {"benchmark": "kernels", "machine": {}, "rows": [{"case": case} for case in cases]}
    return json.dumps(content)


def test_a_part_is_finished_with_all_its_cases_and_not_done_again(tmp_path, programs):
    out = tmp_path / "new"
    first = Suite(out, CPU)
    (out / "kernels.json").write_text(rows(1))
    first.do(python("print('half')"), 60.0)
    assert not first.is_finished("kernels")
    assert first.done["kernels"]["state"] == "to be continued"
    (out / "kernels.json").write_text(rows(2))
    told = "', '.join(os.environ[name] for name in ('FUSEDFACE_CACHE', 'TRITON_CACHE_DIR'))"
    first.do(python(f"import os; print('env', {told})"), 60.0)
    again = Suite(out, CPU)  # as a later process finds it
    assert again.is_finished("kernels")
    assert not again.is_finished("tests")
    log = (out / "log.txt").read_text()
    assert "half" in log
    assert f"env {out}, " in log  # and a folder for Triton, before Inductor chooses another


def test_a_part_that_fails_or_hangs_is_told_with_its_last_words(tmp_path, programs):
    one = Suite(tmp_path, CPU)
    one.do(python("raise SystemExit('no such device')"), 60.0)
    assert one.done["kernels"]["state"] == "failed"
    assert "no such device" in one.done["kernels"]["end"]
    one.do(python("import time; print('began', flush=True); time.sleep(60)"), 1.5)
    assert one.done["kernels"]["state"] == "stopped at its limit"
    assert one.done["kernels"]["end"].endswith("began\n")
    assert one.done["kernels"]["seconds"] < 20


def test_a_part_whose_process_loses_the_device_begins_again(tmp_path, programs, monkeypatch):
    """As long as it names another head each time."""
    monkeypatch.setattr(suite, "SHORTEST", 0.0)
    tries, out = tmp_path / "tries", tmp_path / "kernels.json"
    lost = (
        "import json, pathlib, sys\n"
        f"tries, out = pathlib.Path({str(tries)!r}), pathlib.Path({str(out)!r})\n"
        "tries.write_text(tries.read_text() + 'x')\n"
        "heads = dict.fromkeys(tries.read_text()[:2], 'failed') | {'y': 'failed'}\n"
        "content = {'benchmark': 'kernels', 'machine': {}, 'rows': [], 'lost': heads}\n"
        "out.write_text(json.dumps(content))\n"
        "sys.exit(3)\n"
    )
    for program, expected in ((lost, "xx"), ("raise SystemExit(3)", "")):
        tries.write_text("")
        out.unlink(missing_ok=True)
        Suite(tmp_path, CPU).do(python(program), 60.0)
        assert tries.read_text() == expected


@pytest.mark.parametrize(("rows_of_each", "kept"), [((4, 2), 4), ((2, 4), 4), ((2, 0), 2)])
def test_a_part_that_cannot_go_on_keeps_its_longer_result(tmp_path, programs, rows_of_each, kept):
    """The second time it may be stopped sooner than the first."""
    one = Suite(tmp_path, CPU)
    for num in rows_of_each:
        content = {"benchmark": "host", "machine": {}, "rows": [{"what": "row"}] * num}
        write = f"import sys; open(sys.argv[1], 'w').write({json.dumps(content)!r}); sys.exit(1)"
        one.do(Part("host", 60.0, ("host", write if num else "raise SystemExit(1)")), 60.0)
    assert len(results.read(tmp_path / "host.json")["rows"]) == kept
    assert one.done["host"]["rows"] == kept
    assert not (tmp_path / "host-again.json").exists()


@pytest.mark.slow
def test_tests_after_an_illegal_access_run_in_another_process(tmp_path):
    """Else every later test of that process fails, whatever it tests."""
    pytest.importorskip("xdist")
    (tmp_path / "conftest.py").write_text(
        "import importlib.util, torch\n"
        f"spec = importlib.util.spec_from_file_location('shared', {str(CONFTEST)!r})\n"
        "shared = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(shared)\n"
        "pytest_runtest_logfinish = shared.pytest_runtest_logfinish\n"
        "torch.cuda.is_lost = False\n"
        "torch.cuda.is_initialized = lambda: True\n"
        "def synchronize():\n"
        "    if torch.cuda.is_lost:\n"
        "        raise RuntimeError('CUDA error: an illegal memory access was encountered')\n"
        "torch.cuda.synchronize = synchronize\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import torch\n"
        "def test_before(): torch.cuda.synchronize()\n"
        "def test_illegal(): torch.cuda.is_lost = True; torch.cuda.synchronize()\n"
        "def test_after(): torch.cuda.synchronize()\n"
        "def test_last(): torch.cuda.synchronize()\n"
    )
    command = [sys.executable, "-m", "pytest", "-n", "1", "-v", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "3 passed" in done.stdout, done.stdout
    assert "illegal memory access" in done.stdout
    assert done.returncode == 1


def test_what_the_parts_leave_of_the_time_goes_to_those_not_finished(
    tmp_path, programs, monkeypatch
):
    """Tests come last: they start from the first again. Finished parts, and `ahead`, are not repeated."""
    monkeypatch.setattr(suite, "SHORTEST", 0.0)
    log = tmp_path / "order"
    log.write_text("")
    code = f"import sys; open(r'{log}', 'a').write('{{0}} '); sys.exit(1)"
    done = f"open(r'{log}', 'a').write('c ')"
    parts = [
        Part("ahead", 60.0, ("ahead", "raise SystemExit(1)")),
        Part("tests", 60.0, ("pytest", "raise SystemExit(2)")),
        Part("a", 60.0, ("kernels", code.format("a"))),
        Part("c", 60.0, ("host", done)),
    ]
    began, do = [], Suite.do
    monkeypatch.setattr(suite, "plan", lambda *_: parts)
    monkeypatch.setattr(
        Suite, "do", lambda self, part, seconds: began.append(part.name) or do(self, part, seconds)
    )
    console = Console(file=io.StringIO(), width=200)
    assert not suite.run(tmp_path / "out", CPU, 5.0, (), quick=True, console=console)
    assert began == ["ahead", "tests", "a", "c", "a", "tests"]
    assert log.read_text() == "a c a "


def test_of_tests_the_closing_line_is_kept(tmp_path, monkeypatch):
    code = "print('FAILED tests/a.py::b'); print('1 failed, 2 passed in 3 s'); raise SystemExit(1)"
    monkeypatch.setattr(Suite, "_command", lambda *_: [sys.executable, "-c", code])
    one = Suite(tmp_path, CPU)
    one.do(Part("tests", 60.0, ("pytest",)), 60.0)
    assert one.done["tests"]["result"] == "1 failed, 2 passed in 3 s"
    assert one.is_finished("tests")  # failing tests are a result
    assert "FAILED tests/a.py::b" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("without_chunker", ["", "torch 2.11's leaves it whole"])
def test_the_plan_fits_its_time_and_its_files(without_chunker, monkeypatch):
    monkeypatch.setattr(suite_parts, "missing_in_torch", lambda: without_chunker)
    for device in (CPU, torch.device("cuda")):
        parts = suite.plan(device, quick=False)
        assert len({part.name for part in parts}) == len(parts)
        assert all(part.seconds >= suite.SHORTEST for part in parts)
        assert sum(part.seconds for part in parts) <= 9 * 60 - suite.GRACE
    names = [part.name for part in parts]
    assert names[:2] == ["ahead", "unknowns"]  # what all others need, and what they are read with
    assert ("chunker" in names) == (not without_chunker)


def test_a_part_that_was_stopped_gets_twice_its_budget(tmp_path, programs):
    one = Suite(tmp_path, CPU)
    part = python("import time; time.sleep(60)")
    assert one.budget(part) == 60.0
    one.do(part, 0.5)
    assert Suite(tmp_path, CPU).budget(part) == 120.0
    one.do(python("raise SystemExit('no such device')"), 60.0)
    assert one.budget(part) == 60.0


def test_the_last_tables_hold_what_there_is(tmp_path):
    def write(name, rows):
        content = {"benchmark": name, "machine": {}, "rows": rows}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    console = Console(width=220, file=io.StringIO())
    write(
        "unknowns",
        [{"what": "L2 bandwidth", "measured": 5.5, "unit": "TB/s", "assumed": "7.5 TB/s"}],
    )
    case = {"num_rows": 5, "num_classes": 7, "dim": 3, "phase": "late"}
    head = "auto-chunked arcface bfloat16"
    write("chunker", [{"case": case, "head": head, "ms": {"both": [1.0, 2.0, 3.0]}, "note": ""}])
    step = {"model": "tiny", "way": "CUDA graph", "num_rows": 4, "num_classes": 9, "size": 32}
    step |= {"images_per_second": [1.0, 1234.0, 3.0], "said": ["train.cuda_graph: on"]}
    write("step", [step])
    suite.print_summary(tmp_path, console)
    printed = console.file.getvalue()
    for text in (
        "5.5 TB/s",
        "7.5 TB/s",
        "1,234",
        "train.cuda_graph: on",
        "10,000 images/s",
        "2.000",
    ):
        assert text in printed
    assert printed.index("7.5 TB/s") < printed.index("1,234") < printed.index("5x7x3 late")


@pytest.mark.slow
def test_parts_of_the_real_suite_run(tmp_path):
    """The real command of one part, on tiny shapes."""
    console = Console(record=True, width=200, quiet=True)
    for _ in range(2):  # the second time nothing is left to do
        suite.run(tmp_path, CPU, 2.0, ("errors",), quick=True, console=console)
        found = json.loads((tmp_path / "suite.json").read_text())
        assert found["rows"][0]["cases"] == "4 of 4", (tmp_path / "log.txt").read_text()[-2000:]
    with pytest.raises(ValueError, match="no part nothing"):
        suite.run(tmp_path, CPU, 2.0, ("nothing",), quick=True, console=console)
