"""A recipe: one frozen record of everything that decides the result of a run.

Import the record and its parts from here to write a recipe.

    backbone     fusedface.models
    head         fusedface.kernels
    init, teacher, data, optim, schedule, train, evaluation     here, a file each
"""

import re
from dataclasses import dataclass, field

from fusedface.kernels import HeadOptions
from fusedface.models.registry import BackboneOptions
from fusedface.recipes.configuration.data import Data, Synthetic
from fusedface.recipes.configuration.evaluation import Evaluation
from fusedface.recipes.configuration.init import Init
from fusedface.recipes.configuration.loss_stages import stages_of
from fusedface.recipes.configuration.optim import Optim
from fusedface.recipes.configuration.rules import require
from fusedface.recipes.configuration.schedule import Schedule
from fusedface.recipes.configuration.teacher import TeacherOptions
from fusedface.recipes.configuration.train import Train

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
    """One experiment. `dataclasses.replace(recipe, ...)` makes a variant of it."""

    name: str
    """Its name for `recipe run`."""
    summary: str
    """One line on what it trains and why."""
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    """The network."""
    init: Init = field(default_factory=Init)
    """The initial weights."""
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    """The network to distil from, if any."""
    head: HeadOptions = field(default_factory=HeadOptions)
    """The margin loss."""
    data: Data = field(default_factory=Data)
    """The training images and their augmentation."""
    optim: Optim = field(default_factory=Optim)
    """The optimiser."""
    schedule: Schedule = field(default_factory=Schedule)
    """The length of the run and its learning rate."""
    train: Train = field(default_factory=Train)
    """Seed, precision, logging and checkpoints."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """The verification sets."""

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
