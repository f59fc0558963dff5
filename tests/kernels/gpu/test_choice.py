"""Which tile shape is taken, what happens to one that does not work, and the file of measurements."""

import contextlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from gpu_launches import run_on_meta
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from fusedface.kernels import dispatch, doctor, margin_loss
from fusedface.kernels.gpu import arguments, cache, choice, launch
from fusedface.kernels.gpu.choice import Case
from fusedface.kernels.gpu.tiles import SHARED_MEMORY, Limits, Tile, operand_bytes, shipped

CPU = torch.device("cpu")
SHAPE = (512, 85_742, 128)


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSEDFACE_CACHE", str(tmp_path))
    choice.forget()
    yield
    choice.forget()


def run(kernel="flash", shape=SHAPE, body=lambda tile, start: tile, variant=None):
    return choice.first_that_runs(kernel, shape, CPU, "bfloat16", body, variant)


def tiles():
    return choice.ranked(choice.case_of("flash", SHAPE, "bfloat16"), CPU)


def test_the_first_that_ships_is_taken():
    assert run() == tiles()[0]
    assert len(tiles()) >= 2


REFUSALS = [
    (OutOfResources(300_000, 232_448, "shared memory"), "shared memory"),
    (PTXASError("ptxas fatal"), "ptxas fatal"),
    (CompilationError(None, None, "cannot be lowered"), "cannot be lowered"),
]


@pytest.mark.parametrize(("error", "reason"), REFUSALS, ids=lambda value: type(value).__name__)
def test_one_that_does_not_work_is_left_out_with_a_warning(error, reason):
    first, second = tiles()[:2]

    def body(tile, start):
        if tile == first:
            raise error
        return tile

    with pytest.warns(
        RuntimeWarning, match=rf"flash kernel: Tile\(.*trying the next(.|\n)*{reason}"
    ):
        assert run(body=body) == second
    with warnings.catch_warnings(action="error"):
        assert run(body=body) == second  # and is not tried again


def test_when_none_works_it_says_so_and_does_nothing_else():
    def body(tile, start):
        raise OutOfResources(300_000, 232_448, "shared memory")

    with (
        pytest.warns(RuntimeWarning, match="trying the next"),
        pytest.raises(
            RuntimeError, match=r"no tile shape of the 'flash' kernel.*backend='chunked'"
        ),
    ):
        run(body=body)


def test_other_errors_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        run(body=lambda tile, start: 1 / 0)


def test_nothing_is_compiled_while_a_graph_is_captured(monkeypatch):
    """Loading what was compiled would end the capture with an error that says nothing of the cause."""
    shipped_first, capturing = tiles()[0], True

    def step():
        body = lambda tile, start: tile  # noqa: E731
        return choice.first_that_runs("flash", SHAPE, torch.device("cuda"), "bfloat16", body)

    with monkeypatch.context() as patch:
        patch.setattr(choice, "ranked", lambda case, device: (shipped_first,))
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        with pytest.raises(
            RuntimeError, match=r"'flash' kernel .* = \(512, 85742, 128\) has to be"
        ):
            step()
        capturing = False
        assert step() == shipped_first
        capturing = True
        assert step() == shipped_first  # decided, in a step of the same sizes


def test_a_measurement_comes_first_and_holds_across_processes():
    case, best, shipped_first = choice.case_of("flash", SHAPE, "bfloat16"), tiles()[-1], tiles()[0]
    assert best != shipped_first
    choice.keep(CPU, {case: best})
    choice.forget()  # as a new process does
    assert run() == best
    assert run(shape=(400, 70_000, 128)) == best  # the same buckets
    assert run(shape=(1024, 85_742, 128)) == shipped_first  # another bucket


def test_another_process_finds_the_measurement():
    best = tiles()[-1]
    choice.keep(CPU, {choice.case_of("flash", SHAPE, "bfloat16"): best})
    code = (
        "import torch; from fusedface.kernels.gpu import choice\n"
        "case = choice.case_of('flash', (300, 100_000, 128), 'bfloat16')\n"  # the same buckets
        "print(choice.ranked(case, torch.device('cpu'))[0])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == repr(best)


def test_a_tile_shape_that_no_longer_ships_is_not_used():
    choice.keep(CPU, {choice.case_of("flash", SHAPE, "bfloat16"): Tile(16, 16, num_warps=1)})
    choice.forget()
    assert run() == tiles()[0]


@pytest.mark.parametrize(
    "content", [100_000 * "[", "{", "[]", '{"version": 1}', '{"version": 1, "devices": 3}']
)
def test_a_broken_file_is_not_used(content):
    cache.path().write_text(content)
    with pytest.warns(RuntimeWarning, match=r"tuning\.json is not used, delete it"):
        assert run() == tiles()[0]
    choice.keep(CPU, {choice.case_of("flash", SHAPE, "bfloat16"): tiles()[-1]})  # and replaced
    choice.forget()
    assert json.loads(cache.path().read_text())["version"] == cache.VERSION


def test_a_file_of_another_version_is_not_used():
    cache.path().write_text(json.dumps({"version": 99, "devices": {}}))
    assert run() == tiles()[0]


def test_measurements_of_other_devices_are_kept():
    cache.save("another", [(list(Case("flash", 128, "tf32", 16, 16)), vars(Tile(64, 64)))])
    choice.keep(CPU, {choice.case_of("flash", SHAPE, "bfloat16"): tiles()[-1]})
    assert len(cache.load("another")) == 1
    assert len(cache.load(choice.device_name(CPU))) == 1


def test_tuning_times_every_tile_shape_and_keeps_the_fastest(monkeypatch):
    """With a stop-watch that likes the last one, and one that fails."""
    from fusedface.kernels.gpu import tuning

    started = []

    def start(kernel, grid, *args, tile=None, **constants):
        started.append(tile)

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr(launch, "start_unspilled", start)
    monkeypatch.setattr(arguments, "INTERPRETED", True)

    def measure(call, device):
        started.clear()
        call()
        tile = next(tile for tile in started if tile)
        if tile.num_warps == 4 and tile.block_c == 32:
            raise OutOfResources(1, 0, "shared memory")
        return float(1000 - len(seen.setdefault(repr(tile), "")) - tile.num_warps)

    seen = {}
    timings = tuning.tune(64, 1000, 512, precision="bfloat16", device="cpu", measure=measure)
    kernels = {timing.case.kernel for timing in timings}
    assert kernels == {"lse", "coefficients", "products"}
    for kernel in kernels:
        mine = [timing for timing in timings if timing.case.kernel == kernel]
        assert {t.tile for t in mine} == set(choice.candidates(mine[0].case, CPU))
        fastest = min(mine, key=lambda timing: timing.milliseconds)
        assert choice.ranked(mine[0].case, CPU)[0] == fastest.tile
    assert choice.decided.watch is None


@pytest.mark.parametrize("architecture", SHARED_MEMORY)
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "tf32", "float32"])
@pytest.mark.parametrize("dim", [16, 32, 64, 128, 256, 384, 512, 896, 1024])
def test_every_case_has_a_tile_shape(architecture, precision, dim):
    from fusedface.kernels.gpu import layout

    kernels = {"lse"}
    narrow = layout.is_narrow(dim, precision)
    kernels |= {"flash", "centres"} if narrow else {"coefficients", "products"}
    itemsize = layout.OPERANDS[precision].dtype.itemsize
    for kernel in kernels:
        limits = Limits(architecture, SHARED_MEMORY[architecture])
        found = shipped(kernel, dim, precision, itemsize, limits)
        assert 1 <= len(found) <= 8
        for tile in found:
            assert operand_bytes(tile, dim, itemsize) <= SHARED_MEMORY[architecture]
            assert not tile.block_d or dim % tile.block_d == 0
            assert kernel != "coefficients" or tile.block_b % layout.FLAG_ROWS == 0
            assert kernel not in ("lse", "coefficients") or dim % tile.block_k == 0
            # mma.sync for few rows and then wgmma: Triton leaves out a buffer (docs/performance.md).
            mixes = architecture == "sm_90" and kernel == "centres" and tile.block_b < 64
            assert not mixes or tile.block_c < 64
            for block in (tile.block_b, tile.block_c):
                assert layout.CHUNK_MULTIPLE % max(block, 1) == 0


def test_less_shared_memory_leaves_out_what_cannot_fit():
    """A consumer GPU has 99 KiB."""
    everything = shipped("products", 512, "tf32", 4, Limits("sm_90", SHARED_MEMORY["sm_90"]))
    small = shipped("products", 512, "tf32", 4, Limits("sm_90", 48_000))
    assert set(small) < set(everything)


def test_the_backend_is_refused_where_it_cannot_run():
    x, w, y = torch.ones(2, 4), torch.ones(3, 4), torch.tensor([0, 1])
    from fusedface.kernels import ArcFace

    with pytest.raises(
        ValueError, match=r"backend='triton' needs tensors on a CUDA device.*chunked"
    ):
        margin_loss(x, w, y, ArcFace(), backend="triton")


def test_without_triton(monkeypatch):
    """As on macOS and Windows: "auto" goes on, "triton" says what is missing."""
    monkeypatch.setattr(dispatch, "without_triton", lambda: "No module named 'triton'")
    x = torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"needs Triton .No module named 'triton'.: install it"):
        dispatch.pick_backend("triton", x, x)
    cuda = torch.device("cuda")
    assert dispatch.choose(cuda, torch.float32).backend == "chunked"
    assert "No module named 'triton'" in dict(doctor.report())["Triton"]


def test_import_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import fusedface.kernels, fusedface.kernels.doctor as d\n"
        "print(dict(d.report())['Triton'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "cannot be imported" in result.stdout, result.stderr


def test_what_auto_takes():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert dispatch.choose(cuda, torch.float32).backend == "triton"
    assert dispatch.choose(cuda, torch.float64).backend == "chunked"
    assert dispatch.choose(cpu, torch.float32).backend == "chunked"


def test_doctor():
    report = dict(doctor.report())
    assert {
        "Python",
        "torch",
        "Triton",
        "backend on cpu",
        "precisions",
        "tuning file",
    } <= report.keys()
    assert report["backend on cpu"].startswith("chunked: ")
    assert "none: shipped tile shapes" in report["tuning file"]


@pytest.mark.parametrize("dim", [128, 512])
def test_kernels_start_with_the_device_of_the_tensors_current(dim, monkeypatch):
    """Triton starts on the current device, which need not be theirs, and on its current stream."""
    current, started = [], []

    @contextlib.contextmanager
    def on_device(device):
        current.append(device)
        yield
        current.pop()

    def start(kernel, grid, *args, **options):
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        assert {tensor.device for tensor in tensors} == set(current[-1:])
        started.append(kernel.__name__)

    monkeypatch.setattr(launch, "on_device", on_device)
    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr(launch, "start_unspilled", start)
    run_on_meta(64, 1000, dim, "bfloat16", 1.0, True, True, torch.float32)
    assert len(started) >= 8


def test_which_device_is_made_current():
    second = launch.on_device(torch.device("cuda", 1))
    assert isinstance(second, torch.cuda.device)
    assert second.idx == 1


def test_without_a_home_folder_nothing_is_kept_and_nothing_breaks(monkeypatch):
    def fail():
        raise RuntimeError("could not determine home directory")

    for name in ("FUSEDFACE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", fail)
    assert cache.load("a device") == []
    with pytest.raises(OSError, match="name a folder for caches in FUSEDFACE_CACHE"):
        cache.save("a device", [])
