"""The plan of a comparison: its runs, which differ only in the loss and the seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from fusedface.kernels import HeadOptions
from fusedface.recipes.compare.cures import cures as cures_of
from fusedface.recipes.compare.results import OF_THE_LOSS, PlannedRun
from fusedface.recipes.compare.texts import with_cure
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import differences, override


def plan(
    recipes: Sequence[Recipe],
    num_seeds: int,
    margins: str | None,
    folder: Path,
    *,
    cures: bool = False,
) -> list[PlannedRun]:
    """All runs, seed by seed, so that the finished ones always compare all losses.

    Args:
        recipes: the recipes, which differ only in the loss.
        num_seeds: number of seeds of each, counted from the recipes' own seed.
        margins: a sweep over one parameter of the margin, such as "m=0.3,0.4,0.5"; a loss without
            that parameter runs once.
        folder: the folder of the comparison; it has the run directories runs/LABEL/seedN.
        cures: whether each loss is also trained with each cure.

    Raises:
        ValueError: there is nothing to compare, the recipes differ in more than the loss, or `margins`
            cannot be read.
    """
    if num_seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {num_seeds}")
    names = [recipe.name for recipe in recipes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"{twice[0]!r} is the name of two recipes; a comparison needs one for each"
        )
    losses = _sweep(recipes, margins) if margins else {r.name: r for r in recipes}
    if cures:
        losses = _with_cures(losses)
    _check_alike(list(losses.values()))
    return [
        PlannedRun(label, seed, _with_seed(recipe, seed), _run_folder(folder, label, seed))
        for seed in range(recipes[0].train.seed, recipes[0].train.seed + num_seeds)
        for label, recipe in losses.items()
    ]


def _sweep(recipes: Iterable[Recipe], margins: str) -> dict[str, Recipe]:
    """A recipe for each value and each loss that has the parameter, by label."""
    key, equals, texts = margins.partition("=")
    values = [text.strip() for text in texts.split(",") if text.strip()]
    if not equals or not values:
        raise ValueError(f"--margins must look like m=0.3,0.4,0.5, got {margins!r}")
    parameters = {r.name: {field.name for field in fields(r.head.margin)} for r in recipes}
    if not any(key in names for names in parameters.values()):
        known = sorted(set[str]().union(*parameters.values()))
        raise ValueError(
            f"--margins: none of these losses has {key!r}; they have {', '.join(known)}"
        )
    losses: dict[str, Recipe] = {}
    for recipe in recipes:
        if key not in parameters[recipe.name]:
            losses[recipe.name] = recipe
            continue
        for value in values:
            changed = override(recipe, [f"head.margin.{key}={value}"])
            # Two presets that differ only in this parameter become one.
            if _loss(changed) not in map(_loss, losses.values()):
                losses[f"{recipe.name} {key}={getattr(changed.head.margin, key)}"] = changed
    return losses


def _with_cures(losses: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Each loss as it is, then with each cure that changes it, by label."""
    return {
        with_cure(label, cure): override(recipe, settings)
        for label, recipe in losses.items()
        for cure, settings in [
            ("", []),
            *((k, [v]) for k, v in cures_of(recipe.head.margin).items()),
        ]
    }


def _check_alike(recipes: list[Recipe]) -> None:
    """Raise ValueError unless the recipes differ in nothing but the loss."""
    if len(recipes) < 2:
        raise ValueError("a comparison needs at least two losses; `recipe list` names them")
    first = recipes[0]
    for other in recipes[1:]:
        if _loss(other) == _loss(first):
            raise ValueError(f"{first.name} and {other.name} have the same loss")
        unfair = [d for d in differences(other, first) if not d.startswith(OF_THE_LOSS)]
        if unfair:
            raise ValueError(
                f"only the loss may differ in a comparison, but {other.name} and {first.name} differ in "
                + "; ".join(unfair)
                + ". Make them alike with --set"
            )


def _loss(recipe: Recipe) -> tuple[HeadOptions, tuple[str, ...]]:
    return recipe.head, recipe.schedule.loss


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(recipe, train=replace(recipe.train, seed=seed))


def _run_folder(folder: Path, label: str, seed: int) -> Path:
    return folder / "runs" / label.replace(" ", "_") / f"seed{seed}"
