"""Recipes on a user's own files: faces, a checkpoint to begin with, a teacher."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from fusedface.models import StartingPoint
from fusedface.models.registry import PREPARATION, BackboneOptions
from fusedface.recipes.configuration.data import SYNTHETIC
from fusedface.recipes.configuration.digest import sha256
from fusedface.recipes.configuration.fields import build
from fusedface.recipes.configuration.recipe import Recipe


@dataclass(frozen=True)
class OwnFiles:
    """The files of a user that a command line names. For one that is not given, a recipe keeps its own."""

    data: str | Path | None = None
    """Faces to train on."""
    pairs: Sequence[str | Path] = ()
    """Pair lists to verify on."""
    root: str | Path | None = None
    """The folder that paths in the lists, or in the recipe's own, are relative to; None takes the folder of
    each list."""
    init: str | Path | None = None
    """The checkpoint to begin with."""
    teacher: str | Path | None = None
    """The network to distil from."""

    def given_to(self, recipe: Recipe) -> Recipe:
        """A recipe on these files: see `with_data`, `with_init`, `with_teacher`."""
        if self.data is not None or self.pairs or self.root is not None:
            recipe = with_data(recipe, self.data, self.pairs, self.root)
        if self.init is not None:
            recipe = with_init(recipe, self.init)
        return recipe if self.teacher is None else with_teacher(recipe, self.teacher)


def with_data(
    recipe: Recipe, data: str | Path | None, pairs: Sequence[str | Path], root: str | Path | None
) -> Recipe:
    """A recipe on other faces. All other settings stay; the length of the run in epochs stays too.

    Args:
        recipe: where the other settings come from.
        data: a folder or a list file to train on; None keeps the recipe's source.
        pairs: pair lists to verify on; without any the recipe keeps its own.
        root: the folder that paths in the lists are relative to; None takes the folder of each list.

    Raises:
        ValueError: a path is empty, or there is a root and no list.
    """
    if any(path is not None and not str(path).strip() for path in (data, root, *pairs)):
        raise ValueError("an empty path is none; leave it out, or write . for the current folder")
    # Absolute, so that recipe.toml runs again from any folder.
    if data is not None and str(data) != SYNTHETIC:
        data = Path(data).absolute()
    source = recipe.data.source if data is None else str(data)
    evaluation = replace(
        recipe.evaluation,
        pairs=tuple(str(Path(path).absolute()) for path in pairs) or recipe.evaluation.pairs,
        root=recipe.evaluation.root if root is None else str(Path(root).absolute()),
    )
    if root is not None and not evaluation.pairs:
        raise ValueError(
            f"--root {root} is where the paths of pair lists start, and no list is given; "
            "give one with --pairs, or leave --root out"
        )
    return replace(recipe, data=replace(recipe.data, source=source), evaluation=evaluation)


def with_init(recipe: Recipe, checkpoint: str | Path) -> Recipe:
    """A recipe that begins with the weights of a checkpoint, and takes its network and preprocessing.

    Args:
        recipe: where the other settings come from. Its backbone is kept if the file does not name its
            network (a bare state_dict).
        checkpoint: of any layout that `fusedface.models` reads.

    Raises:
        ValueError: the file cannot be read, or holds a network that no recipe can describe.
    """
    path = Path(checkpoint).absolute()
    start = StartingPoint(path)
    init = replace(recipe.init, checkpoint=str(path), sha256=sha256(path))
    return replace(recipe, init=init, backbone=_backbone(start) or recipe.backbone)


def with_teacher(recipe: Recipe, network: str | Path) -> Recipe:
    """A recipe with a teacher; the other settings `teacher.*` stay.

    Args:
        recipe: where the other settings come from.
        network: a checkpoint that names its network, or an ONNX file. The run reads it when it begins.

    Raises:
        ValueError: there is no such file.
    """
    path = Path(network).absolute()
    return replace(recipe, teacher=replace(recipe.teacher, network=str(path), sha256=sha256(path)))


def _backbone(start: StartingPoint) -> BackboneOptions | None:
    """The network of a checkpoint as a recipe describes it."""
    if start.config is None or start.preprocessing is None:
        return None
    known = {field.name for field in fields(BackboneOptions)}
    if unknown := sorted(str(key) for key in set(start.config) - known):
        raise ValueError(f"{start.path}: no recipe can describe a backbone with {unknown[0]!r}")
    prepared = {name: getattr(start.preprocessing, name) for name in PREPARATION}
    try:
        backbone = build(BackboneOptions, start.config | prepared, "backbone.")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{start.path}: {error}") from None
    if start.preprocessing.input_size != backbone.input_size:
        raise ValueError(
            f"{start.path}: its images have {start.preprocessing.input_size}, its backbone takes "
            f"{backbone.input_size}"
        )
    return backbone
