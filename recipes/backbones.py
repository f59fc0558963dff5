"""Every recipe of MobileFaceNet on another backbone; all other settings stay.

    python cli.py recipe run mobilefacenet_relu-arcface
    python cli.py recipe run mbf-curricular
    python cli.py recipe run iresnet18-arcface

All have their usual 512 dimensions (docs/models.md). A step of mbf or iresnet18 takes several times as long
as one of MobileFaceNet, so they need a GPU.
"""

import inspect
from dataclasses import replace

from fusedface.models import MODELS
from fusedface.recipes.configuration.recipe import BackboneOptions, Recipe
from fusedface.recipes.summaries import BACKBONES

EMBEDDING_DIM = 512


def on_backbone(recipe: Recipe, name: str) -> Recipe:
    """A recipe of MobileFaceNet on another network, at its published width.

    Args:
        recipe: a recipe whose name begins with "mobilefacenet-".
        name: a key of `summaries.BACKBONES`.
    """
    width = inspect.signature(MODELS[name]).parameters["width"].default
    return replace(
        recipe,
        name=f"{name}-{recipe.name.removeprefix('mobilefacenet-')}",
        summary=f"{BACKBONES[name]}: {recipe.summary.removeprefix('MobileFaceNet with ')}",
        backbone=BackboneOptions(name=name, embedding_dim=EMBEDDING_DIM, width=width),
    )
