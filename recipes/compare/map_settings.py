"""The settings of the map of sinking, on both sides of the border; most have one seed. BORDER has more.

Each is a recipe of MobileFaceNet with the protocol below and a few changes. Its label names the differences
from 250 people x 10 images, difficulty 0.75, ArcFace with m = 0.5, batch 128.
"""

from dataclasses import replace
from typing import NamedTuple

from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import override
from fusedface.recipes.mobilefacenet import recipe as mobilefacenet

STEPS = 240
PROTOCOL = (
    "backbone.input_size=[48, 48]",
    "backbone.width=0.5",
    "data.synthetic.num_identities=250",
    "data.synthetic.images_per_identity=10",
    "data.synthetic.difficulty=0.75",
    "optim.batch_size=128",
    f"schedule.steps={STEPS}",
    # The first steps of a long run, so the rate is constant: a cosine schedule would decay too early.
    "schedule.kind=step",
    "schedule.milestones=[0.99]",
    "evaluation.every=0",
    "evaluation.num_identities=20",
    "evaluation.images_per_identity=4",
    "evaluation.num_pairs=200",
    "train.precision=float32",
    "train.checkpoint_every=1000",
    "train.keep_checkpoints=1",
)


class Setting(NamedTuple):
    """One point of the map."""

    label: str
    loss: str = "arcface"
    """The part of the recipe's name after "mobilefacenet-"."""
    changes: tuple[str, ...] = ()
    seed: int = 0

    def recipe(self) -> Recipe:
        """The recipe of the setting."""
        made = override(mobilefacenet(self.loss), [*PROTOCOL, *self.changes])
        return replace(made, train=replace(made.train, seed=self.seed))


STRAIGHT, WIDE = "head.target_gradient=straight_through", "backbone.embedding_dim=512"


def _people(people: int, images: int = 10, difficulty: float = 0.75) -> tuple[str, ...]:
    return (
        f"data.synthetic.num_identities={people}",
        f"data.synthetic.images_per_identity={images}",
        f"data.synthetic.difficulty={difficulty}",
    )


SETTINGS = (
    Setting("250x40", changes=_people(250, 40)),
    Setting("250x10 difficulty 0.25", changes=_people(250, 10, 0.25)),
    Setting("250x10"),
    Setting("250x10 mvarc t=1.2", "mvarc-t1.2"),
    Setting("250x10 normface", "normface"),
    Setting("250x40 s=32", changes=("head.margin.s=32", *_people(250, 40))),
    Setting("250x40 curricular", "curricular", _people(250, 40)),
    Setting("250x20", changes=_people(250, 20)),
    Setting("250x40 m=0.35", changes=("head.margin.m=0.35", *_people(250, 40))),
    Setting("250x10 mvarc t=1.4", "mvarc-t1.4"),
    Setting("250x20 difficulty 0.5", changes=_people(250, 20, 0.5)),
    Setting("125x20", changes=_people(125, 20)),
    Setting("250x10 s=16", changes=("head.margin.s=16",)),
    Setting("250x10 D=512", changes=(WIDE,)),
    Setting("250x40 difficulty 0.5", changes=_people(250, 40, 0.5)),
    Setting("250x40 straight-through", changes=(STRAIGHT, *_people(250, 40))),
    Setting("500x10", changes=_people(500)),
    Setting("60x20", changes=_people(60, 20)),
    Setting("250x20 m=0.45", "arcface-m045", _people(250, 20)),
    Setting("250x10 cosface", "cosface"),
    Setting("500x20", changes=_people(500, 20)),
    Setting("250x10 batch 64", changes=("optim.batch_size=64",)),
    Setting(
        "250x10 batch 64 difficulty 0.25", changes=("optim.batch_size=64", *_people(250, 10, 0.25))
    ),
    Setting("250x10 rate 0.05", changes=("optim.lr=0.05",)),
    Setting("250x10 width 0.25", changes=("backbone.width=0.25",)),
    Setting("250x10 32x32", changes=("backbone.input_size=[32, 32]",)),
    Setting("250x40 32x32", changes=("backbone.input_size=[32, 32]", *_people(250, 40))),
    Setting("125x40", changes=_people(125, 40)),
    Setting("250x10 mvarc t=1.2 straight-through", "mvarc-t1.2", (STRAIGHT,)),
    Setting("250x10 seed 1", seed=1),
    Setting("250x10 mvarc t=1.2 difficulty 0.25", "mvarc-t1.2", _people(250, 10, 0.25)),
    Setting("250x10 seed 2", seed=2),
    Setting("250x20 m=0.2", changes=("head.margin.m=0.2", *_people(250, 20))),
    Setting(
        "250x10 D=512 difficulty 0.25",
        changes=("backbone.embedding_dim=512", *_people(250, 10, 0.25)),
    ),
    Setting("250x10 rate 0.2", changes=("optim.lr=0.2",)),
    Setting("250x10 batch 256", changes=("optim.batch_size=256",)),
    Setting("250x40 seed 1", changes=_people(250, 40), seed=1),
)
"""In the order of the runs, so that the finished ones always cover both sides of the border."""

LONGER = 500  # steps
BORDER = (
    *(Setting(f"125x40 seed {seed}", changes=_people(125, 40), seed=seed) for seed in (1, 2)),
    *(Setting(f"125x20 seed {seed}", changes=_people(125, 20), seed=seed) for seed in (1, 2)),
    *(
        Setting(f"250x20 m=0.45 seed {seed}", "arcface-m045", _people(250, 20), seed)
        for seed in (1, 2)
    ),
    Setting("250x10 D=512, longer", changes=(WIDE, f"schedule.steps={LONGER}")),
    Setting("250x10 rate 0.05, longer", changes=("optim.lr=0.05", f"schedule.steps={LONGER}")),
    Setting("500x20, longer", changes=(f"schedule.steps={LONGER}", *_people(500, 20))),
)
"""More seeds of settings of the map near the border, and more steps for those that it left undecided."""
