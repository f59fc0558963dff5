"""The recipes by name, and users' own recipes from a file or a module."""

import importlib
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from fusedface.recipes import backbones, finetune, mobilefacenet, summaries, synthetic_sets
from fusedface.recipes.configuration.fields import nearest
from fusedface.recipes.configuration.own_files import OwnFiles
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import override, read_recipe


def _on_backbone(backbone: str, loss: str) -> Recipe:
    return backbones.on_backbone(mobilefacenet.recipe(loss), backbone)


MOBILEFACENET: dict[str, Callable[[], Recipe]] = {
    f"mobilefacenet-{loss}": partial(mobilefacenet.recipe, loss) for loss in mobilefacenet.LOSSES
}

FINETUNE: dict[str, Callable[[], Recipe]] = {finetune.NAME: finetune.recipe}

RECIPES: dict[str, Callable[[], Recipe]] = (
    MOBILEFACENET
    | FINETUNE
    | synthetic_sets.SETS
    | {
        f"{backbone}-{loss}": partial(_on_backbone, backbone, loss)
        for backbone in summaries.BACKBONES
        for loss in mobilefacenet.LOSSES
    }
)


def chosen_recipe(
    name_or_file: str | Path, files: OwnFiles, settings: Iterable[str] = ()
) -> Recipe:
    """The recipe that a command line asks for: `get_recipe` on the user's files, then single settings.

    Args:
        name_or_file: see `get_recipe`.
        files: the user's own files.
        settings: see `override`.

    Raises:
        ValueError: there is no such recipe, a file cannot be used, or a setting is bad.
    """
    return override(files.given_to(get_recipe(name_or_file)), settings)


def get_recipe(name_or_file: str | Path) -> Recipe:
    """A recipe by its name, from a recipe file (its name ends in .toml), or from a module.

    Args:
        name_or_file: such as "mobilefacenet-curricular", "mine.toml", or "my_package.my_recipes:small"
            for a function without arguments that returns a `Recipe`. The module may lie in the
            current folder.

    Raises:
        ValueError: there is no such recipe (the nearest name is given), or the file or module is bad.
    """
    name = str(name_or_file)
    if name.endswith(".toml"):
        return read_recipe(name)
    if ":" in name:
        return _from_module(name)
    if name not in RECIPES:
        hint = nearest(name, RECIPES)
        raise ValueError(
            f"there is no recipe {name!r}{hint}\nThe recipes are: {', '.join(RECIPES)}"
        )
    return RECIPES[name]()


def _from_module(name: str) -> Recipe:
    """The recipe that `module:function` returns."""
    module_name, _, function = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that it hides no installed module
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(
            f"cannot import {module_name!r} of recipe {name!r}: {kind}: {error}"
        ) from error
    make = getattr(module, function, None)
    if not callable(make):
        raise ValueError(f"{module_name} has no function {function!r}, named by {name!r}")  # noqa: TRY004
    recipe = make()
    if not isinstance(recipe, Recipe):
        kind = type(recipe).__name__
        raise ValueError(f"{name} must return a Recipe, got {kind}")  # noqa: TRY004
    return recipe
