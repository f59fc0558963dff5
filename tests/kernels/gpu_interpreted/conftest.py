"""Tests of the Triton kernels in Triton's interpreter, on the CPU.

The interpreter is chosen when a kernel is defined, so these run in a process of their own
(tests/kernels/test_gpu_interpreter.py) and are not collected without TRITON_INTERPRET=1. With EMULATED=80
or 90 they run on the emulated GPU instead. bfloat16 is wrong
in the interpreter: it runs on the emulated GPU (tests/kernels/gpu_emulated).
"""

import os

import pytest
import torch

EMULATED = os.environ.get("EMULATED")

if os.environ.get("TRITON_INTERPRET") != "1" and not EMULATED:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _emulated_gpu():
    if not EMULATED:
        yield
        return
    from emulated_head import emulated
    from ptx_emulator import Options

    with emulated(int(EMULATED), Options(check_races=True)):
        yield


@pytest.fixture(autouse=True, scope="session")
def replaced():
    """What quick_interpreter.py replaces: owners, names and what was there."""
    if EMULATED:
        yield []
        return
    from quick_interpreter import quicken

    with pytest.MonkeyPatch.context() as context:
        yield quicken(context)


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """What a kernel forgets to write must not pass for a number."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # with it torch fills new memory with NaN
    assert torch.empty(3).isnan().all()
    assert torch.ones(3).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    """The interpreter takes as long for a program of many rows as for one of few."""
    if not EMULATED:
        from fusedface.kernels.gpu import loss_forward, normalised

        monkeypatch.setattr(loss_forward, "ROWS", 64)
        monkeypatch.setattr(normalised, "ROWS_TILE", 64)


@pytest.fixture
def started(monkeypatch):
    """Names and grids of the kernels that are started, by repeated calls too."""
    found = []
    if EMULATED:
        from ptx_emulator import driver

        start = driver._Launcher.__call__

        def noting(launcher, *args):
            start(launcher, *args)
            run = launcher._gpu.runs[-1]
            found.append((run.name, run.grid[0]))

        monkeypatch.setattr(driver._Launcher, "__call__", noting)
        return found
    from fusedface.kernels.gpu import launch

    start_kernel = launch.start

    def noting_start(kernel, grid, *args, **options):
        found.append((kernel.fn.__name__, grid))
        return start_kernel(kernel, grid, *args, **options)

    monkeypatch.setattr(launch, "start", noting_start)
    return found


@pytest.fixture(params=["narrow", "wide"])
def schedule(request, monkeypatch):
    """Both schedules in plain float32, in several splits and chunks, whatever the sizes."""
    from fusedface.kernels.gpu import choice, layout
    from fusedface.kernels.gpu.tiles import Tile

    monkeypatch.setattr(layout, "is_narrow", lambda dim, precision: request.param == "narrow")
    monkeypatch.setattr(layout, "CHUNK_BYTES", 1)
    monkeypatch.setattr(layout, "CHUNK_SHARE", 2**30)
    monkeypatch.setattr(layout, "CHUNK_MULTIPLE", 128)
    monkeypatch.setattr(layout, "MIN_CLASSES_PER_PART", 64)
    if request.param == "narrow":  # for which no tile shapes ship in float32
        original = choice.candidates

        def candidates(case, device):
            held = case.kernel in ("flash", "centres")
            return (Tile(32, 64),) if held else original(case, device)

        monkeypatch.setattr(choice, "candidates", candidates)
    choice.forget()
    yield request.param
    choice.forget()
