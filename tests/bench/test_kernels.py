"""The benchmark: every provider computes the loss it claims, failures are rows, ratios are paired."""

import json

import pytest
import torch

from fusedface.bench import kernels, peers, report
from fusedface.bench.case import Case
from fusedface.bench.timing import alternate, paired_ratio, quartiles
from fusedface.kernels import ArcFace, CurricularFace, margin_loss

CPU = torch.device("cpu")


@pytest.mark.parametrize("phase", ["start", "late"])
def test_every_provider_agrees_with_the_reference(phase):
    """Loss and gradients, so that no timed formulation is cheaper because it computes something else."""
    case = Case(16, 500, 32, phase)
    for provider in peers.providers(case.t):
        if not peers.installed(provider) or "compiled" in provider.name:
            continue
        embeddings, weight, labels = case.inputs(CPU)
        loss = provider.make()(embeddings, weight, labels)
        loss.backward()
        x, w, _ = case.inputs(CPU)
        state = {"t": torch.tensor(case.t)}
        truth = margin_loss(x, w, labels, provider.margin, state=state, backend="reference").loss
        truth.backward()
        tolerance = max(provider.tolerance, 1e-3)
        torch.testing.assert_close(loss, truth, rtol=tolerance, atol=0, msg=provider.name)
        for got, expected in ((embeddings.grad, x.grad), (weight.grad, w.grad)):
            error = (got - expected).norm() / expected.norm()
            assert error < 5 * tolerance, f"{provider.name}: gradient off by {error:.1e}"


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
    raise RuntimeError("out of memory")


def test_wrong_missing_and_failing_providers_are_rows_that_say_so(monkeypatch):
    margin = CurricularFace()
    providers = [
        peers.Provider(
            "fused curricularface float32", margin, lambda: peers.fused(margin, "float32")
        ),
        peers.Provider("wrong", margin, lambda: wrong),
        peers.Provider("exploding", margin, lambda: explode),
        peers.Provider("absent", margin, lambda: wrong, needs="no_such_package"),
    ]
    monkeypatch.setattr(kernels, "providers", lambda t: providers)
    seen = []
    rows = kernels.run([Case(8, 100, 16)], CPU, rounds=2, memory=False, on_row=seen.append)
    assert seen == rows
    notes = {row.provider: row.note for row in rows}
    assert notes["fused curricularface float32"] == ""
    assert "wrong loss" in notes["wrong"]
    assert "out of memory" in notes["exploding"]
    assert "no_such_package is not installed" in notes["absent"]
    assert [row.median_ms is None for row in rows] == [False, True, True, True]
    assert rows[0].ratio == 1.0


def test_results_are_written_with_the_machine(tmp_path):
    rows = [kernels.Row(Case(8, 100, 16), "fused", 1.0, 2.0, 3.0, 1.0, 5.0, 1e-7)]
    report.write_json(rows, CPU, tmp_path / "new" / "result.json")
    document = json.loads((tmp_path / "new" / "result.json").read_text())
    assert document["machine"]["torch"] == torch.__version__
    assert document["rows"][0]["case"] == {
        "num_rows": 8,
        "num_classes": 100,
        "dim": 16,
        "phase": "start",
    }
    assert document["rows"][0]["median_ms"] == 2.0


def test_every_round_runs_every_step_in_turn():
    calls = []
    steps = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = alternate(steps, CPU, rounds=3)
    assert calls == ["a", "b"] + ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_figures():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    # A slow round slows both: the ratio of the medians would be 1, the paired ratio is 2.
    assert paired_ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2.0
