"""A pytest plugin that records which of our functions each test calls, and its processor time.

`-p mutation.reach` with FUSEDFACE_REACH=file.json. A fixture's calls count for every test that uses it:
the module's trained network shows a change of the trainer to all of them. Calls in other processes are
not seen.
"""

import json
import os
import sys
import threading
from collections import defaultdict
from pathlib import Path

import pytest

Function = tuple[str, str]  # file below the root, qualified name


class Reach:
    """The recorder; one stack entry for each fixture or test that is being run."""

    def __init__(self, root: str, out: Path) -> None:
        self.root, self.out = root, out
        self.stack: list[set[Function]] = [set()]
        self.of_fixture: dict[int, set[Function]] = defaultdict(set)
        self.of_test: dict[str, set[Function]] = {}
        self.seconds: dict[str, float] = {}
        self.fixtures: dict[str, list[int]] = {}
        self._known: dict[object, Function | None] = {}

    def trace(self, frame, event, _):
        code = frame.f_code
        try:
            function = self._known[code]
        except KeyError:
            file, name = code.co_filename, code.co_qualname
            function = (file.removeprefix(self.root), name) if file.startswith(self.root) else None
            self._known[code] = function
        if function is not None:
            self.stack[-1].add(function)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        self.stack.append(self.of_fixture[id(fixturedef)])
        try:
            return (yield)
        finally:
            self.stack.pop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item, nextitem):
        self.stack.append(self.of_test.setdefault(item.nodeid, set()))
        defs = item._fixtureinfo.name2fixturedefs.values()
        self.fixtures[item.nodeid] = [id(d) for many in defs for d in many]
        began = _processor_seconds()
        sys.settrace(self.trace)
        threading.settrace(self.trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            self.seconds[item.nodeid] = _processor_seconds() - began
            self.stack.pop()

    def pytest_runtest_logreport(self, report):
        if report.outcome != "passed":  # skipped or failed: it tells nothing
            self.of_test.pop(report.nodeid, None)

    def pytest_sessionfinish(self):
        tests = {
            test: {
                "seconds": round(self.seconds[test], 3),
                "calls": sorted(calls.union(*(self.of_fixture[i] for i in self.fixtures[test]))),
            }
            for test, calls in self.of_test.items()
        }
        self.out.write_text(json.dumps(tests), encoding="utf-8")


def _processor_seconds() -> float:
    """Of this process and its children that have ended: other work on the machine does not count."""
    return sum(os.times()[:4])


def pytest_configure(config):
    if out := os.environ.get("FUSEDFACE_REACH"):
        config.pluginmanager.register(Reach(os.environ["FUSEDFACE_ROOT"], Path(out)))
