"""Checkpoints: written whole or not at all, the newest undamaged one found again and checked.

A file is a dictionary that `torch.load(path, weights_only=True)` reads. `fusedface.models` reads the
first eight entries of it, the recipes all:

    format, version, step, backbone, preprocessing, model, head, classes
    recipe, optimizer, scaler, rng, progress, data, in_training (with `train.ema`),
    distiller (with a teacher)

A file may be whole and yet of another run, of an edited recipe, or put together by hand: every entry is
checked before it is loaded.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fusedface.models.archives import read_archive
from fusedface.models.checkpoints import FORMAT, VERSION
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import from_dict
from fusedface.recipes.run_directory.files import atomic_file, link_or_copy, remove_partial
from fusedface.recipes.training.meter import FIGURES
from fusedface.recipes.training.progress import Progress
from fusedface.recipes.training.seeding import set_rng_state

BEST = "best.pt"
PATTERN = "step-*.pt"
MAX_LISTED = 5  # names in a message
IN_TRAINING = "in_training"
"""The entry with the weights that training goes on with, where "model" is their average."""
DISTILLER = "distiller"
"""The entry with what learns together with the network to compare it with its teacher."""
MOMENTUM: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
}
"""What an optimiser holds of the size of each parameter; AdamW counts its steps too, as "step"."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, on the CPU.

    Its entries, each checked against the run that is to go on from it: ValueError names the file and what
    is wrong with the entry.
    """

    path: Path
    content: dict[str, Any]

    def recipe(self) -> Recipe:
        """The recipe that it was trained with."""
        values = self._entry("recipe")
        try:
            return from_dict(values)
        except ValueError as error:
            raise self.unusable(f"its recipe cannot be read: {error}") from None

    def progress(self, num_steps: int) -> tuple[Progress, Tensor]:
        """How far it is in a run of `num_steps`, and the rows of the meter, (n, figures)."""
        values = dict(self._entry("progress"))
        meter = values.pop("meter", None)
        if not (_is_plain(meter) and meter.ndim == 2 and meter.shape[1] >= len(FIGURES)):
            raise self.unusable("its progress.meter is not a table of measurements")
        try:
            progress = Progress.from_dict(values)
        except ValueError as error:
            raise self.unusable(str(error)) from None
        if progress.step != self.content["step"]:
            raise self.unusable(f"its progress is that of step {progress.step}")
        if progress.step > num_steps:
            raise self.unusable(
                f"it is of step {progress.step}, and this run has {num_steps} steps"
            )
        return progress, meter

    def tensors(self, key: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of "model", IN_TRAINING or "head", with the names and shapes of `expected`."""
        found = self._entry(key)
        problems = [f"{name} is missing" for name in expected if name not in found]
        problems += [f"{str(name)[:80]} is unexpected" for name in found if name not in expected]
        for name, ours in expected.items():
            if name in found and (reason := _misfit(found[name], ours)):
                problems.append(f"{name} {reason}")
        if problems:
            more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
            listed = "; ".join(problems[:MAX_LISTED]) + more
            raise self.unusable(f"its {key} does not fit this recipe: {listed}")
        return found

    def momentum(
        self, optimizer: torch.optim.Optimizer, may_lack: Collection[str]
    ) -> dict[str, Any]:
        """What `optimizer.load_state_dict` takes: momentum as it was, settings as the recipe has them.

        Args:
            optimizer: over the parameters of the recipe's network and head.
            may_lack: names of the groups whose parameters may not have been changed yet.
        """
        state = self._entry("optimizer").get("state")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        names = [g["name"] for g in optimizer.param_groups for _ in g["params"]]
        needed = {index for index, name in enumerate(names) if name not in may_lack}
        if not isinstance(state, dict) or not needed <= set(state) <= set(range(len(parameters))):
            raise self.unusable(
                "its optimizer holds no momentum of just the parameters of this recipe"
            )
        for index in sorted(state):
            if not _is_momentum(state[index], parameters[index], MOMENTUM[type(optimizer)]):
                raise self.unusable(f"its optimizer's state {index} is not momentum")
        return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}

    def scaler(self, scaler: torch.amp.GradScaler) -> dict[str, Any] | None:
        """The state of a gradient scaler; None of a run that had none, or for one that does nothing."""
        state = self._entry("scaler")
        if not state or not scaler.is_enabled():
            return None
        numbers = all(type(value) in (int, float) for value in state.values())
        if not numbers or set(state) != set(scaler.state_dict()):
            raise self.unusable("its scaler holds no state of a gradient scaler")
        return state

    def restore_generators(self) -> None:
        """Put all random generators where they were."""
        state = self._entry("rng")
        try:
            set_rng_state(state)
        except (LookupError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError):
            raise self.unusable("its rng holds no states of random generators") from None

    def unusable(self, reason: str) -> ValueError:
        """The error for a checkpoint that is whole, but that a run cannot go on from."""
        return ValueError(
            f"cannot go on from {self.path}: {reason}. Move it out of the folder to go on from the "
            "checkpoint before it, or from the start if there is none"
        )

    def _entry(self, key: str) -> dict[Any, Any]:
        value = self.content.get(key)
        if not isinstance(value, dict):
            what = "is missing" if value is None else f"is a {type(value).__name__}"
            raise self.unusable(f"its entry {key!r} {what}, it must be a dictionary")
        return value


class CheckpointFolder:
    """The checkpoints of one run: the newest few, and the best.

    Args:
        folder: made by the first `save`; the folder that it lies in must be there.
        keep: how many of the newest stay.
        entries: what all of them hold: the recipe, and on which images it is trained.
    """

    def __init__(self, folder: Path, keep: int, entries: Mapping[str, Any] | None = None) -> None:
        self.folder, self.keep, self.entries = folder, keep, entries or {}

    def save(self, step: int, content: dict[str, Any], best: bool) -> Path:
        """Write a checkpoint and remove the oldest ones.

        Args:
            step: how many steps have been trained.
            content: the other entries, but format, version and step.
            best: whether it becomes the best.
        """
        self.folder.mkdir(exist_ok=True)  # not its parents: a run that was deleted stays so
        path = self.folder / f"step-{step:08d}.pt"
        with atomic_file(path) as file:
            _save(
                {"format": FORMAT, "version": VERSION, "step": step, **self.entries, **content},
                file,
            )
        if best:
            link_or_copy(path, self.folder / BEST)
        for old in self._all()[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with each newer one.

        Raises:
            ValueError: it is whole but none of this version, or its name says another step.
        """
        problems: list[str] = []
        for path in self._all():
            try:
                content = read_archive(path)
            except ValueError as error:
                problems.append(str(error))
                continue
            checkpoint = Checkpoint(path, content)
            if content.get("format") != FORMAT or content.get("version") != VERSION:
                raise checkpoint.unusable("it is not a checkpoint of this version")
            if content.get("step") != _step(path):
                raise checkpoint.unusable(f"it is of step {str(content.get('step'))[:20]}")
            return checkpoint, problems
        return None, problems

    def last_step(self) -> int | None:
        """The step of the newest file there is now; None if there is none."""
        return next((_step(path) for path in self._all()), None)

    def remove_partial(self) -> None:
        """Remove what a killed run has left half-written."""
        remove_partial(self.folder)

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: damaged ones, or of a run that is being repeated."""
        for path in self._all():
            if _step(path) > step:
                path.unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob(PATTERN), key=_step, reverse=True)


class _Watched:
    """A file that remembers why it could not be written, which torch.save does not always tell."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save(content: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, with an OSError and nothing else where the file cannot be written."""
    watched = _Watched(file)
    try:
        torch.save(content, watched)  # pyright: ignore[reportArgumentType]  it asks for no more
    except RuntimeError as error:
        if watched.error is None:
            raise
        raise watched.error from error


def _step(path: Path) -> int:
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor of floating-point numbers that can be copied."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and value.is_floating_point()
    )


def _is_momentum(values: object, parameter: Tensor, names: tuple[str, ...]) -> bool:
    """Whether a state is what an optimiser keeps of one parameter."""
    expected = dict.fromkeys(names, parameter)
    if len(names) > 1:
        expected["step"] = torch.empty(())
    return (
        isinstance(values, dict)
        and values.keys() == expected.keys()
        and not any(_misfit(values[name], like) for name, like in expected.items())
    )


def _misfit(found: object, expected: Tensor) -> str | None:
    """Why one tensor cannot take the place of another, or None."""
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_meta:
        return "is not a tensor with numbers"
    if found.shape != expected.shape:
        return f"is {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if found.is_floating_point() != expected.is_floating_point() or found.is_complex():
        return f"is {found.dtype} instead of {expected.dtype}"
    return None
