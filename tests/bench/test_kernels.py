"""The benchmark: every head computes the loss it claims, failures are rows, ratios are paired."""

import io
import json
from importlib import metadata

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from fusedface.bench import case_run, kernels, results, roofline, tables
from fusedface.bench.case import Case, default_shapes, fitting_classes, parse_cases
from fusedface.bench.check import TOLERANCES, Tolerance, check, truth
from fusedface.bench.failures import DeviceLostError, WrongResultError
from fusedface.bench.heads import published, table
from fusedface.bench.heads.table import Head, heads
from fusedface.bench.plan import Plan, chosen
from fusedface.bench.rows import Row
from fusedface.bench.timing import alternate, paired_ratio, quartiles
from fusedface.kernels import ArcFace, CurricularFace, NormFace, margin_loss

CPU = torch.device("cpu")
SMALL = Case(8, 100, 16)


@pytest.mark.parametrize("phase", ["start", "late"])
def test_every_head_agrees_with_the_reference(phase):
    """Loss and gradients, so that no timed formulation is cheaper because it computes something else."""
    case = Case(16, 500, 64, phase)
    inputs = case.inputs(CPU)
    checked = []
    for head in heads(case.t, CPU):
        if not (head.missing or "compiled" in head.name or "auto-chunked" in head.name):
            errors = check(head, head.make(), inputs, truth(head, case, inputs))
            checked.append(head.name)
            assert head.precision != "float32" or errors.weight < 2e-5, head.name
    assert {"official curricularface", "partial fc arcface", "eager arcface"} <= set(checked)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_processor_without_bfloat16_has_no_rows_of_it(monkeypatch, has_bfloat16):
    """Torch's emulation takes tens of times as long: a ratio to it would say nothing of our head."""
    monkeypatch.setattr(table, "bfloat16_is_fast", lambda: has_bfloat16)
    listed = [
        head for head in heads(SMALL.t, CPU) if not head.missing.startswith("the auto-chunker")
    ]
    left_out = {head.name for head in listed if "no bfloat16" in head.missing}
    named = {head.name for head in listed if head.name.endswith(" bfloat16")}
    assert len(named) >= 5
    assert left_out == (set() if has_bfloat16 else named)


def test_the_truth_is_that_of_a_plain_cross_entropy():
    inputs = SMALL.inputs(CPU)
    expected = truth(
        Head("normface", NormFace(s=64.0), lambda: published.eager_normface), SMALL, inputs
    )
    x, w = (tensor.detach().double().requires_grad_() for tensor in inputs[:2])
    loss = F.cross_entropy(64.0 * F.normalize(x) @ F.normalize(w).T, inputs[2])
    gradients = torch.autograd.grad(loss, (x, w))
    assert expected.loss == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(expected.embeddings, gradients[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(expected.weight.double(), gradients[1], rtol=1e-6, atol=1e-12)


def test_another_loss_and_another_gradient_are_told_apart():
    """The tolerances are narrow enough: no precision lets a wrong formula through."""
    inputs = SMALL.inputs(CPU)
    for wrong, right in (
        (published.eager_normface, ArcFace(m=0.5, s=64.0)),
        (published.eager_arcface, NormFace(s=64.0)),
        (
            published.partial_fc_arcface,
            ArcFace(m=0.5, s=64.0),
        ),  # its gradient is straight-through
    ):
        head = Head("wrong", right, lambda: wrong, precision="bfloat16")  # noqa: B023
        with pytest.raises(WrongResultError, match="wrong"):
            check(head, wrong, inputs, truth(head, SMALL, inputs))


def test_phases_differ_in_how_many_negatives_are_hard():
    shares = {}
    for phase in ("start", "late"):
        case = Case(64, 2000, 128, phase)
        out = margin_loss(*case.inputs(CPU), ArcFace())
        shares[phase] = out.hard_negatives.float().mean().item() / 1999
    assert shares["start"] > 0.99
    assert shares["late"] < 0.1


def wrong(embeddings, weight, labels):
    return embeddings.sum() * 0 + weight.sum() * 0 + 1.0


def explode(embeddings, weight, labels):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


class Later:
    """Right twice (its check and its warm-up), then it fails."""

    def __init__(self, loss):
        self.loss, self.calls = loss, 0

    def __call__(self, *inputs):
        self.calls += 1
        if self.calls > 2:
            raise RuntimeError("the device went away\nand more")
        return self.loss(*inputs)


def test_wrong_missing_and_failing_heads_are_rows_that_say_so(monkeypatch):
    margin, t = CurricularFace(), torch.zeros(())
    ours = published.fused(margin, "float32", t)
    listed = [
        Head("fused curricularface float32", margin, lambda: ours),
        Head("wrong", margin, lambda: wrong),
        Head("exploding", margin, lambda: explode),
        Head("absent", margin, lambda: wrong, missing="no_such_package is not installed"),
        Head("failing later", margin, lambda: Later(ours)),
    ]
    monkeypatch.setattr(kernels, "heads", lambda t, device: listed)
    seen = []
    plan = Plan(CPU, rounds=2, memory=False)
    rows = kernels.run([SMALL], plan, on_case=seen.extend)
    assert seen == rows
    notes = {row.head: row.note for row in rows}
    assert notes["fused curricularface float32"] == ""
    assert "wrong loss" in notes["wrong"]
    assert notes["exploding"] == "out of memory"
    assert notes["absent"] == "no_such_package is not installed"
    assert notes["failing later"] == "failed: the device went away"
    assert [bool(row.ms) for row in rows] == [True, False, False, False, False]
    first = rows[0]
    assert set(first.ms) == {"forward", "backward", "both", "step"}
    assert first.ratios["both"] == {"fused curricularface float32": 1.0}
    assert first.flops_per_second > 0


def test_without_a_reference_the_heads_of_its_loss_say_so(monkeypatch):
    """The others of the case are timed; at the most classes that fit, memory may be short for one only."""

    def short(head, case, inputs):
        if head.margin.name == "arcface":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return truth(head, case, inputs)

    monkeypatch.setattr(case_run, "truth", short)
    plan = Plan(CPU, rounds=1, only=("eager arcface", "eager normface"), memory=False)
    rows = {row.head: row for row in kernels.run([SMALL], plan)}
    assert rows["eager arcface"].note == "not checked, out of memory"
    assert rows["eager normface"].ms


@pytest.mark.parametrize("where", ["truth", "inputs"])
def test_a_device_that_is_lost_between_heads_ends_the_process(where, monkeypatch):
    """Else every head of this case and of all later ones would count as done, and failed."""

    def lost(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    if where == "truth":
        monkeypatch.setattr(case_run, "truth", lost)
    else:
        monkeypatch.setattr(type(SMALL), "inputs", lost)
    monkeypatch.setattr(case_run, "is_lost", lambda device: True)
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        kernels.run([SMALL], Plan(CPU, rounds=1, only=("eager normface",), memory=False))


def test_a_head_that_loses_the_device_is_left_out_by_the_next_process(tmp_path, monkeypatch):
    """After an illegal access every call of a process fails: the rows of all other heads would be lost."""
    margin, t = CurricularFace(), torch.zeros(())
    ours, broken = published.fused(margin, "float32", t), []

    def illegal(embeddings, weight, labels):
        broken.append(len(labels))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    listed = [
        Head("fused curricularface float32", margin, lambda: ours),
        Head("illegal", margin, lambda: illegal),
        Head("after it", margin, lambda: ours),
    ]
    monkeypatch.setattr(kernels, "heads", lambda t, device: listed)
    monkeypatch.setattr(kernels, "measure", lambda device, precisions: CEILINGS)
    monkeypatch.setattr(case_run, "is_lost", lambda device: bool(broken))
    out, plan = tmp_path / "result.json", Plan(CPU, rounds=1, memory=False)
    with pytest.raises(DeviceLostError, match="illegal: failed: CUDA error"):
        kernels.run_to_file([SMALL], plan, out, resume=True)
    assert results.read(out)["rows"] == []
    broken.clear()  # as in a new process
    kernels.run_to_file([SMALL], plan, out, resume=True)
    rows = {row["head"]: row for row in results.read(out)["rows"]}
    assert not broken
    assert "illegal memory access" in rows["illegal"]["note"]
    assert all(rows[name]["ms"] for name in ("fused curricularface float32", "after it"))


def test_only_takes_what_is_asked_for_and_its_base():
    everything = heads(SMALL.t, CPU)
    names = [p.name for p in chosen(everything, ["official"], [])]
    assert names == ["fused curricularface float32", "official curricularface"]
    names = [p.name for p in chosen(everything, ["eager"], ["compiled", "normface"])]
    assert "eager arcface" in names
    assert not any("compiled" in name or "normface" in name for name in names)
    assert chosen(everything, (), ()) == everything


def test_a_file_is_written_after_each_case_and_resumed_from(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "measure", lambda device, precisions: CEILINGS)
    out = tmp_path / "new" / "result.json"
    plan = Plan(CPU, rounds=1, only=("fused arcface float32",), memory=False)
    kernels.run_to_file([SMALL], plan, out)
    document = results.read(out)
    assert document["machine"]["packages"]["torch"] == metadata.version("torch")
    (row,) = document["rows"]
    assert row["case"] == {"num_rows": 8, "num_classes": 100, "dim": 16, "phase": "start"}
    assert row["of_limit"] > 0
    other = Case(8, 100, 16, "late")
    again = kernels.run_to_file([SMALL, other], plan, out, resume=True)
    assert json.loads(json.dumps(again["rows"][0])) == row
    assert [Row.from_dict(row).case for row in results.read(out)["rows"]] == [SMALL, other]
    wide, narrow = (_printed(results.read(out), width) for width in (200, 80))
    assert "fused arcface float32" in wide
    assert "loss error" in wide
    assert "…" not in narrow
    figures = [word for line in wide.splitlines() if "fused" in line for word in line.split()[3:]]
    assert len(figures) > 20
    assert set(figures) <= set(narrow.split())


def _printed(document, width):
    console = Console(width=width, file=io.StringIO())
    tables.print_kernels(document, console)
    return console.file.getvalue()


CEILINGS = roofline.Ceilings({"float32": 1e9, "bfloat16": 1e9}, 1e9, 1e9)


def test_the_least_time_is_that_of_the_scarcest_resource():
    case = Case(10, 1000, 100)
    least = roofline.least_work(case)
    assert least.flops == 3 * 2 * 10 * 1000 * 100
    assert least.bytes == 2 * 4 * (10 + 1000) * 100
    assert least.exps == 10 * 1000
    assert CEILINGS.seconds(least, "float32") == pytest.approx(6e-3)
    few_exps = roofline.Ceilings({"float32": 1e12}, 1e12, 1e6)
    assert few_exps.seconds(least, "float32") == pytest.approx(1e-2)


def test_memory_of_a_step_is_measured_in_a_fresh_process():
    case = Case(64, 200_000, 16)
    plan = Plan(CPU, rounds=0, only=("fused arcface float32", "eager arcface"))
    ours, eager = (row.peak_extra_mib for row in kernels.run([case], plan))
    logits = 64 * 200_000 * 4 / 2**20
    gradient = 200_000 * 16 * 4 / 2**20
    assert eager > 2 * logits
    assert gradient * 0.9 < ours < gradient + 0.8 * logits  # a constant size, never (B, C)


def test_what_does_not_fit_is_a_row_and_not_the_end_of_the_machine(monkeypatch):
    """The child may use 2 GB: logits of 1 GB fit once, not as often as the eager formulation needs."""
    monkeypatch.setattr("fusedface.bench.memory.free_bytes", lambda device: 2 * 2**30)
    plan = Plan(CPU, rounds=0, only=("fused arcface float32", "eager arcface"))
    ours, eager = kernels.run([Case(64, 2**22, 4)], plan)
    assert ours.note == ""
    assert ours.peak_extra_mib < 200
    assert eager.note == "out of memory"


def test_tolerances_grow_with_the_rounding():
    assert TOLERANCES["float32"] < TOLERANCES["float16"] <= TOLERANCES["tf32"]
    assert TOLERANCES["tf32"] < TOLERANCES["bfloat16"] < Tolerance(0.1, 0.2)


def test_shapes():
    assert parse_cases(["2x3x4"], ["late"]) == [Case(2, 3, 4, "late")]
    assert len(parse_cases(default_shapes(CPU), ["start", "late"])) == 6
    (most,) = parse_cases(["2xmaxx64"], ["start"], CPU)
    assert most.num_classes == fitting_classes(64, CPU) > 10_000
    for bad in ("2x3", "2x3xfour", "0x5x5", "maxx5x5"):
        with pytest.raises(ValueError, match="shape"):
            parse_cases([bad], ["start"])
    with pytest.raises(ValueError, match="start or late"):
        parse_cases(["2x3x4"], ["middle"])


def test_every_round_runs_every_step_in_turn():
    calls = []

    def run(name):
        calls.append(name)
        return {"both": float(len(calls))}

    figures = alternate({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=3)
    assert calls == ["a", "b"] * 3
    assert figures == {"a": {"both": [1.0, 3.0, 5.0]}, "b": {"both": [2.0, 4.0, 6.0]}}
    assert len(alternate({"a": lambda: run("a")}, 9, deadline=0.0)["a"]["both"]) == 3


def test_figures():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    # A slow round slows both: the ratio of the medians would be 1, the paired ratio is 2.
    assert paired_ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2.0


def test_kept_exponentials_save_a_product_and_move_bytes():
    case = Case(512, 85_742, 512)
    head = Head(
        "fused curricularface bfloat16, exponentials kept", CurricularFace(), published.fused,
        precision="bfloat16", keeps_exponentials=True,
    )  # fmt: skip
    work, least = roofline.work(case, head, CPU), roofline.least_work(case)
    assert work.flops == least.flops == 6 * 512 * 85_742 * 512
    assert work.bytes - least.bytes == 3 * 2 * 512 * 85_742
