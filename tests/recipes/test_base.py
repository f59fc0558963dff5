"""Recipes refuse what makes no sense, and the registry knows them all."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from fusedface.kernels import CurricularFace, HeadOptions, MVArc
from fusedface.recipes.configuration.recipe import (
    BackboneOptions,
    Data,
    Evaluation,
    Init,
    Optim,
    Recipe,
    Schedule,
    Synthetic,
    Train,
)
from fusedface.recipes.registry import FINETUNE, RECIPES, get_recipe
from fusedface.recipes.synthetic_sets import SETS

WRONG = [
    (BackboneOptions, {"name": "mobilfacenet"}, "mobilefacenet"),
    (BackboneOptions, {"input_size": (100, 112)}, "input_size"),
    (HeadOptions, {"focal_gamma": -1.0}, "focal_gamma"),
    (HeadOptions, {"backend": "cuda"}, "backend"),
    (Synthetic, {"num_identities": 1}, "data.synthetic.num_identities must be at least 2"),
    (Synthetic, {"difficulty": 1.5}, "data.synthetic.difficulty"),
    (Synthetic, {"label_noise": 1.0}, "data.synthetic.label_noise"),
    (Data, {"source": " "}, "data.source"),
    (Data, {"num_workers": -1}, "data.num_workers"),
    (Optim, {"lr": 0.0}, "optim.lr"),
    (Optim, {"lr": float("nan")}, "optim.lr"),
    (Optim, {"batch_size": 1}, "optim.batch_size"),
    (Optim, {"momentum": 1.0}, "optim.momentum"),
    (Optim, {"weight_decay_head": -1e-4}, "optim.weight_decay_head"),
    (Optim, {"clip_norm": -1.0}, "optim.clip_norm"),
    (Optim, {"kind": "adam"}, "optim.kind"),
    (Optim, {"lr_head": 0.0}, "optim.lr_head"),
    (Optim, {"beta2": 1.0}, "optim.beta2"),
    (BackboneOptions, {"activation": "gelu"}, "activation"),
    (BackboneOptions, {"name": "mbf", "stem_pointwise": True}, "stem_pointwise"),
    (BackboneOptions, {"std": (1.0, 0.0, 1.0)}, "std"),
    (BackboneOptions, {"mean": (float("nan"), 0.0, 1.0)}, "backbone.mean"),
    (BackboneOptions, {"flip": "mean"}, "flip"),
    (Init, {"centres": "kmeans"}, "init.centres"),
    (Init, {"checkpoint": "x.pt"}, "init.sha256"),
    (Train, {"freeze": -1}, "train.freeze"),
    (Train, {"ema": 1.0}, "train.ema"),
    (Schedule, {"epochs": 0.0}, "schedule.epochs"),
    (Schedule, {"steps": 0}, "schedule.steps"),
    (Schedule, {"kind": "linear"}, "schedule.kind"),
    (Schedule, {"kind": "step"}, "schedule.milestones"),
    (Schedule, {"kind": "step", "milestones": (0.5, 0.4)}, "schedule.milestones"),
    (Schedule, {"kind": "step", "milestones": (36.0, 52.0)}, "schedule.milestones"),
    (Schedule, {"gamma": 1.0}, "schedule.gamma"),
    (Train, {"seed": -1}, "train.seed"),
    (Train, {"precision": "fp16"}, "train.precision"),
    (Train, {"log_every": 0}, "train.log_every"),
    (Evaluation, {"num_pairs": 2}, "evaluation.num_pairs"),
    (Evaluation, {"every": -1.0}, "evaluation.every"),
]


@pytest.mark.parametrize(("kind", "settings", "named"), WRONG, ids=str)
def test_refuses_with_the_key(kind, settings, named):
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        kind(**settings)


def test_reading_a_recipe_draws_no_random_numbers():
    before = torch.get_rng_state()
    BackboneOptions(width=0.75)
    assert torch.equal(torch.get_rng_state(), before)


def test_recipes_are_frozen_and_keyword_only():
    recipe = get_recipe("mobilefacenet-curricular")
    with pytest.raises(FrozenInstanceError):
        recipe.name = "other"
    with pytest.raises(TypeError):
        Recipe("name", "summary")
    assert not hasattr(recipe, "__dict__")


@pytest.mark.parametrize("name", RECIPES)
def test_registry_rows_carry_their_own_name_and_a_summary(name):
    recipe = get_recipe(name)
    assert recipe.name == name
    assert recipe.summary


def test_variants_differ_in_the_loss_alone():
    main = get_recipe("mobilefacenet-curricular")
    assert main.head.margin == CurricularFace(m=0.5, s=64.0)
    for name in RECIPES.keys() - SETS.keys() - FINETUNE.keys():
        variant = get_recipe(name)
        network = variant.backbone
        assert name.startswith(f"{network.name}-")
        assert network == main.backbone or network.name != main.backbone.name
        same = replace(
            variant, name=main.name, summary=main.summary, head=main.head,
            schedule=replace(variant.schedule, loss=()),
        )  # fmt: skip
        assert same == replace(main, backbone=network)
        assert name.endswith("-curricular") or variant.head != main.head
    staged = {name for name in RECIPES if get_recipe(name).schedule.loss}
    assert {name.partition("-")[2] for name in staged} == {
        "arcface-scale-warmup", "arcface-softmax-first",
    }  # fmt: skip
    assert get_recipe("mobilefacenet-mvarc-t1.4").head.margin == MVArc(m=0.5, s=64.0, t=1.4)
    assert get_recipe("mobilefacenet-arcface-m045").head.margin.m == 0.45
    assert get_recipe("mobilefacenet-focal").head.focal_gamma == 2.0


@pytest.mark.parametrize("name", SETS)
def test_recipes_of_synthetic_sets_differ_from_arcface_in_data_and_length(name):
    recipe, arcface = get_recipe(name), get_recipe("mobilefacenet-arcface")
    assert (recipe.backbone, recipe.head) == (arcface.backbone, arcface.head)
    assert recipe.data.source.endswith(f"{name.removeprefix('mobilefacenet-')}.lmdb")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("mobilefacenet-curriculer", "mobilefacenet-curricular"),
        ("mobilefacenet-mvarc-t1.3", "mobilefacenet-mvarc-t1"),
    ],
)
def test_an_unknown_recipe_names_the_nearest(wrong, right):
    with pytest.raises(ValueError, match=f"did you mean '{right}"):
        get_recipe(wrong)
