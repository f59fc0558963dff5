"""The default losses and settings of a comparison."""

from collections.abc import Sequence
from dataclasses import fields

from fusedface.recipes.configuration.fields import nearest
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import override

PAPER_SET = (
    "mobilefacenet-curricular",
    "mobilefacenet-arcface",
    "mobilefacenet-arcface-m045",
    "mobilefacenet-mvarc-t1.2",
    "mobilefacenet-mvarc-t1.4",
    "mobilefacenet-normface",
)
"""The losses of CurricularFace's Fig. 5 and of its text on MobileFaceNet, with softmax on unit vectors
as the baseline."""

PROTOCOLS: dict[str, tuple[str, ...]] = {
    "small": (
        "backbone.input_size=[48, 48]",
        "backbone.width=0.5",
        "data.synthetic.num_identities=1000",
        "data.synthetic.images_per_identity=10",
        "data.synthetic.difficulty=0.75",
        "optim.batch_size=128",
        "schedule.epochs=12",
        "evaluation.every=1",
        "evaluation.num_identities=100",
        "evaluation.num_pairs=6000",
        "train.precision=float32",
        "train.checkpoint_every=1000",
        "train.keep_checkpoints=1",
    ),
    "short": (
        "backbone.input_size=[48, 48]",
        "backbone.width=0.5",
        "data.synthetic.num_identities=250",
        "data.synthetic.images_per_identity=40",
        "data.synthetic.difficulty=0.75",
        "optim.batch_size=128",
        "schedule.steps=390",
        "evaluation.every=0.5",
        "evaluation.num_identities=100",
        "evaluation.num_pairs=6000",
        "train.precision=float32",
        "train.checkpoint_every=1000",
        "train.keep_checkpoints=1",
    ),
    "casia": (
        "data.synthetic.num_identities=10572",
        "data.synthetic.images_per_identity=40",
        "optim.batch_size=512",
        "schedule.epochs=4",
        "schedule.warmup_steps=100",
        "evaluation.every=0.25",
        "evaluation.num_identities=200",
        "evaluation.num_pairs=6000",
        "train.checkpoint_every=1000",
        "train.keep_checkpoints=1",
    ),
    "recipe": (),
}
"""Settings that change each recipe, by name of the protocol.

- "small" is for two CPU cores.
- "short" has 390 steps, for a study with many variants. Its people are few, so a margin that sinks does
  so soon.
- "casia" is for a GPU, with as many generated people as CASIA-WebFace has.
- "recipe" changes nothing.

See docs/convergence.md."""


def get_protocol(name: str) -> tuple[str, ...]:
    """The settings of a protocol.

    Raises:
        ValueError: the protocol is unknown.
    """
    if name not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise ValueError(
            f"--protocol must be one of {known}, got {name!r}{nearest(name, PROTOCOLS)}"
        )
    return PROTOCOLS[name]


def with_settings(recipes: Sequence[Recipe], settings: Sequence[str]) -> list[Recipe]:
    """The recipes with the same changes in each; a margin parameter changes only where the margin has it.

    Args:
        recipes: the recipes of a comparison.
        settings: such as "optim.lr=0.05" or "head.margin.t_momentum=0.99", which only CurricularFace has.

    Raises:
        ValueError: a setting is wrong, or no recipe has it.
    """
    unused = {setting for setting in settings if setting.startswith("head.margin.")}
    changed = []
    for recipe in recipes:
        names = {f"head.margin.{field.name}" for field in fields(recipe.head.margin)}
        fitting = [s for s in settings if _is_for(s, names)]
        changed.append(override(recipe, fitting))
        unused -= set(fitting)
    if unused:
        raise ValueError(f"no recipe of this comparison has {min(unused).partition('=')[0]!r}")
    return changed


def _is_for(setting: str, margin_names: set[str]) -> bool:
    return not setting.startswith("head.margin.") or setting.partition("=")[0] in margin_names
