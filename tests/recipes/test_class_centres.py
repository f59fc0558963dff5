"""Runs whose class centres are sampled, or learn within the backward: they resume to the same bits."""

import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tiny_run import NUM_IDENTITIES, checkpoint_at, tiny_recipe

from fusedface.recipes.configuration.recipe import Optim
from fusedface.recipes.run import run_recipe

pytestmark = pytest.mark.usefixtures("short_networks")

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


def fused(folder, rate=1.0, **settings):
    recipe = sampled(folder, rate)
    return replace(recipe, optim=replace(recipe.optim, fuse_centres=True, **settings))


KINDS = {
    "sampled": lambda folder: sampled(folder, 0.7),
    "fused": fused,
    "fused and sampled": lambda folder: fused(folder, 0.7),
    "bfloat16": lambda folder: fused(folder, centres_dtype="bfloat16"),
    "momentum in bfloat16": lambda folder: fused(folder, centres_momentum_dtype="bfloat16"),
    "bfloat16 and sampled": lambda folder: fused(folder, 0.7, centres_dtype="bfloat16"),
}
"""Recipes; each resumes to the same bits."""
DTYPES = {
    "bfloat16": 2 * (torch.bfloat16,),
    "momentum in bfloat16": (torch.float32, torch.bfloat16),
}


def last(folder):
    return checkpoint_at(folder, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_run_that_was_not_stopped(faces, tmp_path, kind):
    recipe = KINDS[kind](faces)
    whole, again = tmp_path / "whole", tmp_path / "again"
    run_recipe(recipe, whole, device="cpu", console=QUIET)
    shutil.copytree(whole, again)
    (again / "checkpoints" / "step-00000006.pt").unlink()
    (again / "summary.json").unlink()
    run_recipe(recipe, again, resume=True, device="cpu", console=QUIET)
    first, second = last(whole), last(again)
    assert torch.equal(first["head"]["weight"], second["head"]["weight"])
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    momentum = [content["optimizer"]["state"] for content in (first, second)]
    for index, value in momentum[0].items():
        assert torch.equal(value["momentum_buffer"], momentum[1][index]["momentum_buffer"])
    weight = first["head"]["weight"]
    of_centres = next(
        value["momentum_buffer"]
        for value in momentum[0].values()
        if value["momentum_buffer"].shape == weight.shape
    )
    wanted = DTYPES.get(kind.partition(" and")[0], 2 * (torch.float32,))
    assert (weight.dtype, of_centres.dtype) == wanted


def test_class_centres_that_learn_in_the_backward_learn_the_same(faces, tmp_path):
    folders = tmp_path / "fused", tmp_path / "plain"
    for folder, recipe in zip(folders, (fused(faces), sampled(faces, 1.0)), strict=True):
        run_recipe(recipe, folder, device="cpu", console=QUIET)
    one, other = (last(folder) for folder in folders)
    torch.testing.assert_close(one["head"]["weight"], other["head"]["weight"], rtol=1e-3, atol=1e-4)
    assert one["optimizer"]["state"].keys() == other["optimizer"]["state"].keys()


def test_settings_that_exclude_each_other(faces):
    recipe = fused(faces)
    with pytest.raises(
        ValueError, match=r"optim\.fuse_centres needs optim\.kind 'sgd', got 'adamw'"
    ):
        replace(recipe.optim, kind="adamw")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"centres_dtype": "float16"}, r"optim\.centres_dtype must be one of float32, bfloat16"),
        (
            {"centres_dtype": "bfloat16"},
            r"optim\.centres_dtype 'bfloat16' needs optim\.fuse_centres",
        ),
        (
            {"centres_momentum_dtype": "bfloat16"},
            r"optim\.centres_momentum_dtype 'bfloat16' needs optim\.fuse_centres",
        ),
        (
            {
                "fuse_centres": True,
                "centres_dtype": "bfloat16",
                "centres_momentum_dtype": "float32",
            },
            r"optim\.centres_momentum_dtype must be 'bfloat16'",
        ),
    ],
)
def test_dtypes_of_class_centres_that_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Optim(**settings)


def test_a_rate_below_what_a_batch_needs_is_refused_before_anything_is_written(faces, tmp_path):
    recipe = sampled(faces, 0.5)
    with pytest.raises(ValueError, match=rf"at least B / C = 4 / {NUM_IDENTITIES} = 0\.6667"):
        run_recipe(recipe, tmp_path / "run", device="cpu", console=QUIET)
    assert not (tmp_path / "run").exists()
