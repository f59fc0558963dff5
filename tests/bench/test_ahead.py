"""What is compiled before the benchmarks on a GPU: the same kernels, found in Triton's cache."""

import inspect
import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

pytest.importorskip("triton", reason="Triton is there only on Linux")
from fusedface.bench import ahead, host, suite_parts, tables
from fusedface.bench.case import parse_cases
from fusedface.bench.heads import table
from fusedface.commands import bench_training
from fusedface.kernels import CurricularFace
from fusedface.models import create


def _killed(job, gpu):
    os._exit(1)


H200 = ahead.Gpu(capability=90, shared_memory=232_448, processors=132, memory=140 * 2**30)
SHAPE = (64, 1000, 64)


def test_every_fused_head_of_the_suite_has_a_job():
    cases = parse_cases(suite_parts.KERNEL_SHAPES, ["start"])
    tuned = parse_cases(suite_parts.TUNED_SHAPES, ["start"])
    found = ahead.jobs(cases, tuned, H200)
    assert {job.kernel for job in found if job.kernel} == {
        "lse", "flash", "centres", "coefficients", "products",
    }  # fmt: skip
    for case in cases:
        here = [job for job in found if job[:3] == (case.num_rows, case.num_classes, case.dim)]
        names = {(job.margin, job.precision, job.keep) for job in here if job.margin}
        fused = table._fused(CurricularFace(), SimpleNamespace(device=torch.device("cuda")))
        wanted = {(h.margin.name, h.precision, h.keeps_exponentials) for h in fused}
        assert wanted <= names
    assert {job.margin for job in found if job.trains} == {margin.name for margin in host.MARGINS}
    for command in (bench_training.time_trained_step, bench_training.compare_convergence):
        defaults = {p.name: p.default for p in inspect.signature(command).parameters.values()}
        batch, classes = defaults["batch"], defaults["classes"]
        dim = create(defaults["model"]).embedding_dim
        assert ahead.Job(batch, classes, dim, "bfloat16", "curricularface", trains=True) in found


def test_no_gpu_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="compiles for a GPU, and the device is cpu"):
        ahead.Gpu.of(torch.device("cpu"))


def test_class_centres_that_take_too_much_memory_have_no_job():
    (case,) = parse_cases(["512x12000000x512"], ["start"])
    assert {job.num_classes for job in ahead.jobs([case], [], H200)} <= {192, 100, 85_742}


@pytest.mark.slow
def test_what_is_compiled_is_found_by_another_process(tmp_path):
    """A cache with one job in it gets no further file from the same step of another process."""
    code = (
        "import sys, torch\n"
        "from fusedface.bench import ahead\n"
        f"gpu, job = ahead.Gpu(*{tuple(H200)}), ahead.Job(*{SHAPE}, 'bfloat16', 'curricularface')\n"
        "with ahead.as_on(gpu):\n"
        "    ahead.compile_for(job)\n"
    )
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    counts = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        counts.append(sorted(path.name for path in tmp_path.rglob("*.cubin")))
    assert counts[0] == counts[1]
    for kernel in ("flash_kernel", "centre_gradient_kernel", "rows_kernel", "reduce_kernel"):
        assert f"{kernel}.cubin" in counts[0]


@pytest.mark.slow
def test_workers_compile_every_tile_shape_and_tell_what_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    todo = [
        ahead.Job(*SHAPE, "bfloat16", kernel="centres"),
        ahead.Job(*SHAPE, "bfloat16", "no such margin"),
        ahead.Job(*SHAPE, "bfloat16", "curricularface", trains=True),
    ]
    rows = {row["job"]["margin"]: row for row in ahead.run(todo, H200, workers=1)}
    assert rows[""]["note"] == rows["curricularface"]["note"] == ""
    assert rows["no such margin"]["note"].startswith("failed: ")
    # With unit rows for the next step, without, and with the rate on the device.
    assert len(list(tmp_path.rglob("sgd_kernel.cubin"))) == 3
    assert list(tmp_path.rglob("unit_rows_kernel.cubin"))
    from fusedface.kernels.gpu.tiles import Limits, shipped

    tiles = shipped("centres", 64, "bfloat16", 2, Limits("sm_90", H200.shared_memory))
    compiled = list(tmp_path.rglob("centre_gradient_kernel.cubin"))
    assert (
        len(compiled) == len(tiles) + 2
    )  # one more stage: bench unknowns; and that of the training


def test_a_worker_that_is_killed_does_not_end_the_others_work(monkeypatch):
    monkeypatch.setattr(ahead, "_row", _killed)
    todo = [ahead.Job(*SHAPE, "bfloat16", "curricularface")] * 2
    rows = ahead.run(todo, H200, workers=1)
    assert [row["note"] for row in rows] == ["left out: a worker was killed"] * 2
    console = Console(width=120, file=io.StringIO())
    tables.print_ahead(rows, console)
    assert "(and 1 more): left out: a worker was killed" in console.file.getvalue()
