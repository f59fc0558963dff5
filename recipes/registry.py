"""The recipes by name. To add one: a file with a function like its neighbours, and a row here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from fusedface.recipes import (
    mobilefacenet_adaface,
    mobilefacenet_arcface,
    mobilefacenet_cosface,
    mobilefacenet_curricular,
    mobilefacenet_focal,
    mobilefacenet_mvarc,
    mobilefacenet_normface,
    wider,
)
from fusedface.recipes.base import Recipe
from fusedface.recipes.fields import nearest
from fusedface.recipes.settings import read_recipe


def _wider(make: Callable[[], Recipe], backbone: str) -> Recipe:
    return wider.on_backbone(make(), backbone)


MOBILEFACENET: dict[str, Callable[[], Recipe]] = {
    "mobilefacenet-curricular": mobilefacenet_curricular.recipe,
    "mobilefacenet-arcface": mobilefacenet_arcface.recipe,
    "mobilefacenet-arcface-m045": mobilefacenet_arcface.small_margin,
    "mobilefacenet-mvarc-t1.2": partial(mobilefacenet_mvarc.recipe, t=1.2),
    "mobilefacenet-mvarc-t1.4": partial(mobilefacenet_mvarc.recipe, t=1.4),
    "mobilefacenet-normface": mobilefacenet_normface.recipe,
    "mobilefacenet-cosface": mobilefacenet_cosface.recipe,
    "mobilefacenet-focal": mobilefacenet_focal.recipe,
    "mobilefacenet-adaface": mobilefacenet_adaface.recipe,
}

RECIPES: dict[str, Callable[[], Recipe]] = MOBILEFACENET | {
    name.replace("mobilefacenet", backbone): partial(_wider, make, backbone)
    for backbone in wider.WIDER
    for name, make in MOBILEFACENET.items()
}


def get_recipe(name_or_file: str | Path) -> Recipe:
    """A recipe by its name, or from a recipe file (anything that ends in .toml).

    Raises:
        ValueError: there is no such recipe (the nearest name is given), or the file is bad.
    """
    name = str(name_or_file)
    if name.endswith(".toml"):
        return read_recipe(name)
    if name not in RECIPES:
        hint = nearest(name, RECIPES)
        raise ValueError(
            f"there is no recipe {name!r}{hint}\nThe recipes are: {', '.join(RECIPES)}"
        )
    return RECIPES[name]()
