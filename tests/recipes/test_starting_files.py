"""What a recipe reads of the checkpoint that a run begins with, and which checkpoints are refused."""

import re
import shutil

import pytest
import torch
from rich.console import Console
from starting_points import SIZE, write_checkpoint
from tiny_run import tiny_recipe

from fusedface.models import MODELS, create
from fusedface.models.layouts import LAYOUTS
from fusedface.recipes.configuration.own_files import with_init
from fusedface.recipes.configuration.settings import from_dict, override, to_dict
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.run import run_recipe


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_describes_every_network(name, tmp_path):
    torch.manual_seed(0)
    model = create(name, **SIZE)
    archive = {
        "format": "fusedface-checkpoint", "version": 1, "backbone": model.config,
        "preprocessing": model.preprocessing.as_dict(), "model": model.state_dict(),
    }  # fmt: skip
    torch.save(archive, tmp_path / "m.pt")
    recipe = with_init(get_recipe("mobilefacenet-finetune"), tmp_path / "m.pt")
    with torch.device("meta"):
        assert recipe.backbone.build().config == model.config
    assert from_dict(to_dict(recipe)) == recipe


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_recipe_describes_every_public_layout(layout, tmp_path):
    with torch.device("meta"):
        model = create(**layout.config)
        expected = model.state_dict()
    tensors = {theirs: torch.zeros(expected[ours].shape) for theirs, ours in layout.names().items()}
    torch.save({layout.wrapper: tensors} if layout.wrapper else tensors, tmp_path / "public.pt")
    recipe = with_init(get_recipe("mobilefacenet-finetune"), tmp_path / "public.pt")
    with torch.device("meta"):
        ours = recipe.backbone.build()
    assert (ours.config, ours.preprocessing) == (model.config, layout.preprocessing)


def test_a_bare_state_dict_keeps_the_recipes_network(faces, tmp_path):
    torch.manual_seed(1)
    model = create("mobilefacenet", **SIZE)
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    recipe = with_init(tiny_recipe(faces), tmp_path / "bare.pt")
    assert recipe.backbone == tiny_recipe(faces).backbone


def refused(faces, path, out, message, *settings):
    recipe = override(with_init(tiny_recipe(faces), path), settings)
    with pytest.raises(ValueError, match=message) as caught:
        run_recipe(recipe, out, device="cpu", console=Console(quiet=True))
    assert path.name in str(caught.value)
    assert not out.exists()


def test_a_file_that_has_changed_or_is_gone(faces, checkpoint, tmp_path):
    path = tmp_path / "mine.pt"
    shutil.copy(checkpoint, path)
    recipe = with_init(tiny_recipe(faces), path)
    write_checkpoint(path, step=8)
    for message in ("mine.pt has changed: .* SHA-256", "mine.pt does not exist"):
        with pytest.raises(ValueError, match=message):
            run_recipe(recipe, tmp_path / "out", device="cpu", console=Console(quiet=True))
        path.unlink(missing_ok=True)
    assert not (tmp_path / "out").exists()


def test_another_network_is_refused(faces, checkpoint, tmp_path):
    message = r"less than half: it is of another network"
    refused(faces, checkpoint, tmp_path / "out", message, "backbone.width=0.5")


def test_weights_that_are_not_finite_are_refused(faces, checkpoint, tmp_path):
    model = torch.load(checkpoint, weights_only=True)["model"]
    model["stem.conv.weight"][0, 0, 0, 0] = torch.nan
    path = write_checkpoint(tmp_path / "nan.pt", model=model)
    refused(faces, path, tmp_path / "out", r"not finite: stem\.conv\.weight")


@pytest.mark.parametrize(
    ("classes", "head", "message"),
    [
        ("ann", {"weight": torch.zeros(1, 16)}, "'classes' must be a list of names"),
        ([1, 2], {"weight": torch.zeros(2, 16)}, "'classes' must be a list of names"),
        (["a", "b"], None, "head.weight must be the finite class centres of the 2 people"),
        (["a", "b"], {"weight": torch.zeros(3, 16)}, "head.weight must be"),
        (["a", "b"], {"weight": torch.full((2, 16), torch.inf)}, "head.weight must be"),
        (["a", "b"], {"weight": torch.zeros(2, 16, dtype=torch.int64)}, "head.weight must be"),
        (["a", "b"], {"weight": torch.zeros(2, 16).to_sparse()}, "head.weight must be"),
    ],
)
def test_damaged_people_are_refused(classes, head, message, tmp_path):
    path = write_checkpoint(
        tmp_path / "people.pt", ["x"], torch.zeros(1, 16), classes=classes, head=head
    )
    with pytest.raises(ValueError, match=rf"people\.pt: .*{message}"):
        with_init(get_recipe("mobilefacenet-finetune"), path)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "mobilefacenet", "embedding_dim": 10**12},
        {"name": "mobilefacenet", "secret": 1},
        {"name": "mobilefacenet", "input_size": 3},
        {1: 2},
    ],
)
def test_networks_that_no_recipe_describes_are_refused(config, tmp_path):
    path = write_checkpoint(tmp_path / "odd.pt", backbone=config)
    with pytest.raises(ValueError, match=r"odd\.pt"):
        with_init(get_recipe("mobilefacenet-finetune"), path)


def test_the_recipe_of_fine_tuning_wants_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="name it with --init CHECKPOINT"):
        run_recipe(
            get_recipe("mobilefacenet-finetune"), tmp_path / "out", console=Console(quiet=True)
        )
    assert not (tmp_path / "out").exists()


def test_path_and_hash_go_together():
    recipe = get_recipe("mobilefacenet-arcface")
    with pytest.raises(ValueError, match="--init CHECKPOINT fills in both"):
        override(recipe, ["init.checkpoint=x.pt"])
    with pytest.raises(ValueError, match=re.escape("init.sha256 must be 64 hexadecimal digits")):
        override(recipe, ["init.checkpoint=x.pt", "init.sha256=abc"])
