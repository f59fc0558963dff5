"""A whole run on a CUDA device, from a graph and compiled, and how it goes on; `pytest -m gpu`."""

import pytest
import torch
from rich.console import Console
from tiny_run import checkpoint_at, same_end, tiny_recipe

from fusedface.recipes.configuration.settings import override
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training.learner import Learner

pytestmark = pytest.mark.usefixtures("short_networks")
ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
WAYS = [
    ("cpu", "off", "off"),  # so that the test itself runs everywhere
    *(
        pytest.param("cuda", compiled, graph, marks=ON_GPU)
        for compiled in ("off", "on")
        for graph in ("off", "on")
    ),
]
LAST = 12  # step
# Sums in another order: compiled class centres ended apart by 3 % of their largest number (bfloat16, on a
# CPU), others by less. A graph that repeats a step or leaves one out is further off.
CLOSE = {"off": 0.05, "on": 0.25}


def run(recipe, out, device, **options):
    run_recipe(recipe, out, device=device, console=Console(quiet=True), **options)
    return out


@pytest.mark.parametrize(("device", "compiled", "graph"), WAYS)
def test_a_run_goes_on_to_the_same_bits(device, compiled, graph, faces, tmp_path):
    """And ends near one whose steps are started one by one."""
    kept = ("train.checkpoint_every=3", "train.keep_checkpoints=9", "evaluation.every=0")
    plain = override(tiny_recipe(faces), [*kept, "train.compile=off", "train.cuda_graph=off"])
    recipe = override(plain, [f"train.compile={compiled}", f"train.cuda_graph={graph}"])
    whole = run(recipe, tmp_path / "whole", device)
    stopped = run(recipe, tmp_path / "stopped", device)
    for later in (9, LAST):  # as if it had been killed after step 6
        (stopped / "checkpoints" / f"step-{later:08d}.pt").unlink()
    (stopped / "summary.json").unlink()
    same_end(whole, run(recipe, stopped, device, resume=True), LAST)
    single = checkpoint_at(run(plain, tmp_path / "single", device), LAST)["head"]
    for name, value in checkpoint_at(whole, LAST)["head"].items():
        apart = (value.double() - single[name].double()).norm()
        assert apart <= CLOSE[compiled] * single[name].double().norm(), name


def test_convolutions_of_a_run_sum_in_a_fixed_order(faces, tmp_path, monkeypatch):
    """On a GPU cuDNN may choose others; the settings of whoever starts a run are put back."""
    found, cudnn, learn = set(), torch.backends.cudnn, Learner.learn

    def noting(learner, step, batch):
        found.add((cudnn.deterministic, cudnn.benchmark))
        learn(learner, step, batch)

    monkeypatch.setattr(Learner, "learn", noting)
    for name, value in (("deterministic", False), ("benchmark", True)):
        monkeypatch.setattr(cudnn, name, value)
    run(tiny_recipe(faces), tmp_path / "run", "cpu")
    assert found == {(True, False)}
    assert (cudnn.deterministic, cudnn.benchmark) == (False, True)
