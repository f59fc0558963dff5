"""Every recipe of MobileFaceNet on another backbone; all else stays as it is.

    python cli.py recipe run mobilefacenet_relu-arcface
    python cli.py recipe run mbf-curricular
    python cli.py recipe run iresnet18-arcface

All have their usual 512 dimensions (docs/models.md). mbf and iresnet18 take several times as long a step
as MobileFaceNet: for a GPU.
"""

from dataclasses import replace

from fusedface.recipes.configuration.recipe import Backbone, Recipe

BACKBONES = {
    "mobilefacenet_relu": "MobileFaceNet with ReLU (for phones)",
    "mbf": "mbf (a wider MobileFaceNet)",
    "iresnet18": "IResNet-18",
}
"""Names in `fusedface.models.MODELS`, and what `recipe list` shows of them."""
EMBEDDING_DIM = 512


def on_backbone(recipe: Recipe, name: str) -> Recipe:
    """A recipe of MobileFaceNet on another network.

    Args:
        recipe: whose name begins with "mobilefacenet-".
        name: a key of BACKBONES.
    """
    return replace(
        recipe,
        name=f"{name}-{recipe.name.removeprefix('mobilefacenet-')}",
        summary=f"{BACKBONES[name]}: {recipe.summary.removeprefix('MobileFaceNet with ')}",
        backbone=Backbone(name=name, embedding_dim=EMBEDDING_DIM),
    )
