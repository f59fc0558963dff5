"""Short names of losses for readers, such as "ArcFace, m = 0.45", instead of names of recipes."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fusedface.recipes.configuration.loss_stages import CONDITION

if TYPE_CHECKING:
    from fusedface.recipes.configuration.recipe import Recipe

TITLES = {
    "adaface": "AdaFace",
    "arcface": "ArcFace",
    "combined": "Combined",
    "cosface": "CosFace",
    "curricularface": "CurricularFace",
    "ldam": "LDAM",
    "magface": "MagFace",
    "mvam": "MV-AM",
    "mvarc": "MV-Arc",
    "normface": "NormFace",
    "sphereface": "SphereFace",
}
USUAL_SCALE = 64.0


def short_names(recipes: "Mapping[str, Recipe]") -> dict[str, str]:
    """A name for each recipe by its label; the label itself if two recipes would have the same name."""
    named = {label: _name(recipe, with_margin=False) for label, recipe in recipes.items()}
    times = Counter(named.values())
    named = {
        label: _name(recipes[label], with_margin=times[name] > 1) for label, name in named.items()
    }
    times = Counter(named.values())
    return {label: name if times[name] == 1 else label for label, name in named.items()}


def _name(recipe: "Recipe", with_margin: bool) -> str:
    """The loss with its special settings; with its margin only if another loss has the same name."""
    head = recipe.head
    margin = head.margin
    parts = [TITLES.get(margin.name, margin.name)]
    if with_margin and (m := getattr(margin, "m", None)) is not None:
        parts.append(f"m = {m:g}")
    if margin.name.startswith("mv"):
        parts.append(f"t = {getattr(margin, 't'):g}")  # noqa: B009  other margins have none
    if margin.s != USUAL_SCALE:
        parts.append(f"s = {margin.s:g}")
    if head.focal_gamma:
        parts.append(f"focal {head.focal_gamma:g}")
    if head.weighting is not None:
        parts.append("self-paced")
    if recipe.schedule.loss:
        parts.append("after " + ", ".join(map(_stage, recipe.schedule.loss)))
    if head.target_gradient != "exact":
        parts.append(head.target_gradient.replace("_", "-"))
    return ", ".join(parts)


def _stage(entry: str) -> str:
    """The margin of an entry of `schedule.loss`, without its end."""
    return " ".join(word for word in entry.split()[1:] if not word.startswith(CONDITION))
