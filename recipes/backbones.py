"""Every recipe of MobileFaceNet on a wider backbone; all else stays as it is.

    python cli.py recipe run mbf-curricular
    python cli.py recipe run iresnet18-arcface

mbf is insightface's wider MobileFaceNet, iresnet18 its smallest residual network; both with their usual
512 dimensions. They take several times as long a step as MobileFaceNet: for a GPU.
"""

from dataclasses import replace

from fusedface.recipes.configuration.recipe import Backbone, Recipe

WIDER = {"mbf": "mbf (a wider MobileFaceNet)", "iresnet18": "IResNet-18"}
EMBEDDING_DIM = 512


def on_backbone(recipe: Recipe, name: str) -> Recipe:
    """A recipe of MobileFaceNet on another network.

    Args:
        recipe: whose name begins with "mobilefacenet-".
        name: a key of WIDER.
    """
    return replace(
        recipe,
        name=f"{name}-{recipe.name.removeprefix('mobilefacenet-')}",
        summary=f"{WIDER[name]}: {recipe.summary.removeprefix('MobileFaceNet with ')}",
        backbone=Backbone(name=name, embedding_dim=EMBEDDING_DIM),
    )
