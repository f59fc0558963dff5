"""The result of a run: summary.json."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fusedface.recipes.run_directory.files import read_json
from fusedface.recipes.run_directory.metrics import is_verification

SUMMARY = "summary.json"
VERDICT_COLOURS = {
    "converged": "green",
    "unfinished": "yellow",
    "interrupted": "yellow",
    "chance": "red",
    "sunk": "red",
    "collapsed": "red",
    "non_finite": "red",
}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The outcome of a run."""

    recipe: str
    """Name of the recipe."""
    seed: int
    device: str
    """The device of the run, such as "cpu (x86_64, 2 threads)"."""
    verdict: str
    """One of `verdict.Verdict`."""
    verdict_step: int | None
    """The step at which the run went wrong; None if it did not."""
    message: str
    """One sentence on the verdict."""
    steps: int
    """Number of trained steps."""
    num_steps: int
    """Planned number of steps."""
    seconds: float
    """Seconds from start to end, with reading, evaluating and saving."""
    images_per_second: float
    """Images per second of the training steps, with reading."""
    peak_memory_mib: float | None
    """Peak memory: of the allocator on a GPU, of the process on a CPU."""
    final_loss: float | None
    """The loss in the last line of metrics."""
    initial_loss: float
    """The predicted loss of random embeddings."""
    collapse_loss: float
    """The predicted loss of embeddings that are orthogonal to all class centres."""
    num_identities: int
    """C, the number of people in the training set."""
    num_images: int
    """Number of images in the training set."""
    unreadable_images: int
    """Number of training images that could not be read and were left out."""
    verification: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Figures of the trained network, by set name."""
    untrained: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Figures before training, by set name: with drawn weights, or with those of `init`."""
    overlap: dict[str, str] = field(default_factory=dict)
    """By set name: the people and images that the set shares with the training images."""
    init: str = ""
    """The checkpoint that the run began with; empty if weights were drawn."""
    recipe_changes: list[dict[str, Any]] = field(default_factory=list)
    """Changes of settings when the run was resumed: {"step": ..., "changes": [a line each]}."""
    cpu_seconds: float | None = None
    """Seconds of all CPU cores, of training and evaluation; None in summaries of earlier versions."""
    class_sizes: dict[str, int] = field(default_factory=dict)
    """How many people have so many training images, if the margin depends on that: {"20": 7, ...}."""

    @property
    def finished(self) -> bool:
        """Whether all steps were trained, and none of them is known not to be finite."""
        return self.steps == self.num_steps and self.verdict != "non_finite"

    def as_dict(self) -> dict[str, Any]:
        """For summary.json."""
        return asdict(self)


def read_summary(path: Path) -> Summary:
    """Read a summary file.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    values = read_json(path)
    try:
        summary = Summary(**values)
    except TypeError as error:  # not an object, or an unknown or missing entry
        reason = str(error).removeprefix("Summary.__init__() ")
        raise ValueError(f"{path} is not a summary of a run: {reason[:200]}") from None
    for name, hint in get_type_hints(Summary).items():
        if not isinstance(values.get(name), _kinds(hint)) and name in values:
            raise ValueError(f"{path} is damaged: {name} is {str(values[name])[:80]!r}")
    if summary.verdict not in VERDICT_COLOURS:
        raise ValueError(f"{path} is damaged: no verdict is {summary.verdict[:80]!r}")
    for name in ("verification", "untrained"):
        if not is_verification(values.get(name, {})):
            raise ValueError(f"{path} is damaged: {name} holds no verification figures")
    return summary


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types of JSON values that a field of this annotation accepts."""
    options = [get_origin(option) or option for option in get_args(hint) or (hint,)]
    if get_origin(hint) in (dict, list):
        options = [get_origin(hint)]
    return (*options, int) if float in options else tuple(options)
