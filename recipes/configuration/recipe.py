"""A recipe: one frozen record that says everything that decides a run's result.

Whoever writes one imports it and its parts from here.

    backbone     backbone.py                data, evaluation     faces.py
    head         fusedface.kernels          init, optim, schedule, train     training.py
    teacher      teacher.py
"""

import re
from dataclasses import dataclass, field

from fusedface.kernels import HeadOptions
from fusedface.recipes.configuration.backbone import BackboneOptions
from fusedface.recipes.configuration.faces import Data, Evaluation, Synthetic
from fusedface.recipes.configuration.loss_stages import stages_of
from fusedface.recipes.configuration.rules import require
from fusedface.recipes.configuration.teacher import TeacherOptions
from fusedface.recipes.configuration.training import Init, Optim, Schedule, Train

__all__ = [
    "BackboneOptions",
    "Data",
    "Evaluation",
    "Init",
    "Optim",
    "Recipe",
    "Schedule",
    "Synthetic",
    "TeacherOptions",
    "Train",
]

NAME = re.compile(r"[^\W_](?:[\w .+=@()-]*[\w+=@()-])?")
LONGEST_NAME = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One experiment. A variant of it is `dataclasses.replace(recipe, ...)`."""

    name: str
    """What `recipe run` calls it."""
    summary: str
    """One line on what it trains and why."""
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    """The network."""
    init: Init = field(default_factory=Init)
    """What it begins with."""
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    """Whose embeddings it learns from."""
    head: HeadOptions = field(default_factory=HeadOptions)
    """The loss."""
    data: Data = field(default_factory=Data)
    """The training images."""
    optim: Optim = field(default_factory=Optim)
    """The optimiser."""
    schedule: Schedule = field(default_factory=Schedule)
    """Length and learning rate."""
    train: Train = field(default_factory=Train)
    """Seed, arithmetic, output."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """Verification."""

    def __post_init__(self) -> None:
        rule = (
            f"at most {LONGEST_NAME} bytes of letters, digits, spaces and . _ - + = @ ( ), beginning with "
            "a letter or digit: it names folders"
        )
        fits = NAME.fullmatch(self.name) and len(self.name.encode()) <= LONGEST_NAME
        require("name", self.name, bool(fits), rule)
        is_number = self.head.reduction != "none"
        require("head.reduction", self.head.reduction, is_number, "'mean' or 'sum' to train with")
        stages_of(self.schedule.loss, self.head.margin)
        if self.teacher.places_centres:
            rule = "{} with teacher.method 'adadistill', whose class centres do not learn"
            for key, value, needed in (
                ("train.freeze", self.train.freeze, 0),
                ("optim.fuse_centres", self.optim.fuse_centres, False),
                ("head.sample_rate", self.head.sample_rate, 1.0),
            ):
                require(key, value, value == needed, rule.format(str(needed).lower()))
