"""A run whose class centres are sampled: it resumes to the same bits, and a rate below B / C is refused."""

import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tiny_run import NUM_IDENTITIES, tiny_recipe, write_faces

from fusedface.recipes.run import run_recipe

QUIET = Console(quiet=True)


def sampled(folder, rate):
    recipe = tiny_recipe(folder)
    return replace(
        recipe,
        head=replace(recipe.head, sample_rate=rate),
        optim=replace(recipe.optim, batch_size=4),
        schedule=replace(recipe.schedule, steps=6),
        evaluation=replace(recipe.evaluation, every=0.0),
    )


def test_a_resumed_run_draws_what_it_would_have_drawn(tmp_path):
    recipe = sampled(write_faces(tmp_path), 0.7)
    whole, again = tmp_path / "whole", tmp_path / "again"
    run_recipe(recipe, whole, device="cpu", console=QUIET)
    shutil.copytree(whole, again)
    (again / "checkpoints" / "step-00000006.pt").unlink()
    (again / "summary.json").unlink()
    run_recipe(recipe, again, resume=True, device="cpu", console=QUIET)
    first, second = (
        torch.load(path / "checkpoints" / "step-00000006.pt", weights_only=True)
        for path in (whole, again)
    )
    assert torch.equal(first["head"]["weight"], second["head"]["weight"])
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    momentum = [content["optimizer"]["state"] for content in (first, second)]
    for index, value in momentum[0].items():
        assert torch.equal(value["momentum_buffer"], momentum[1][index]["momentum_buffer"])


def test_a_rate_below_what_a_batch_needs_is_refused_before_anything_is_written(tmp_path):
    recipe = sampled(write_faces(tmp_path), 0.5)
    with pytest.raises(ValueError, match=rf"at least B / C = 4 / {NUM_IDENTITIES} = 0\.6667"):
        run_recipe(recipe, tmp_path / "run", device="cpu", console=QUIET)
    assert not (tmp_path / "run").exists()
