"""A checkpoint to resume a run from; each entry is checked before it is loaded.

A file is a dictionary that `torch.load(path, weights_only=True)` reads. `fusedface.models` reads its first
eight entries; a resumed run reads all of them:

    format, version, step, backbone, preprocessing, model, head, classes
    recipe, optimizer, scaler, rng, progress, data, in_training (with `train.ema`),
    distiller (with a teacher), shards (with several processes: the files of the class centres, which
    "head" and "optimizer" then lack)

A whole file may still come from another run or an edited recipe, or be made by hand.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusedface.recipes.training.meter import FIGURES
from fusedface.recipes.training.progress import Progress
from fusedface.recipes.training.seeding import set_rng_state

MAX_LISTED = 5  # names in a message
IN_TRAINING = "in_training"
"""The entry with the weights in training, if "model" holds their average."""
DISTILLER = "distiller"
"""The entry with the parameters of the distiller, which are trained with the network."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, on the CPU.

    Each method checks an entry against the run that resumes; its ValueError names the file and the fault.
    """

    path: Path
    content: dict[str, Any]

    def recipe(self) -> dict[str, Any]:
        """The recipe of its run, in the form of `configuration.settings.to_dict`."""
        return self._entry("recipe")

    def progress(self, num_steps: int) -> tuple[Progress, Tensor]:
        """Its progress in a run of `num_steps`, and the rows of the meter (n, figures)."""
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
        """The argument of `optimizer.load_state_dict`: saved momentum, with the settings of the recipe.

        Args:
            optimizer: over the parameters of the recipe's network and head.
            may_lack: names of the groups whose parameters may have no state yet.
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
            if not _is_momentum(state[index], parameters[index], _momentum_names(optimizer)):
                raise self.unusable(f"its optimizer's state {index} is not momentum")
        return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}

    def scaler(self, scaler: torch.amp.GradScaler) -> dict[str, Any] | None:
        """The state of a gradient scaler; None if the saved run had none, or if `scaler` is disabled."""
        state = self._entry("scaler")
        if not state or not scaler.is_enabled():
            return None
        numbers = all(type(value) in (int, float) for value in state.values())
        if not numbers or set(state) != set(scaler.state_dict()):
            raise self.unusable("its scaler holds no state of a gradient scaler")
        return state

    def restore_generators(self, device: torch.device, *, is_shared: bool) -> None:
        """Restore the states of all random generators; see `set_rng_state`."""
        state = self._entry("rng")
        try:
            set_rng_state(state, device, is_shared=is_shared)
        except (LookupError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError):
            raise self.unusable("its rng holds no states of random generators") from None

    def unusable(self, reason: str) -> ValueError:
        """The error for a checkpoint that is whole but cannot be resumed from."""
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


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor of floating-point numbers that can be copied."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and value.is_floating_point()
    )


def _momentum_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The state tensors that have the shape of each parameter; AdamW also has "step"."""
    is_adamw = isinstance(optimizer, torch.optim.AdamW)
    return ("exp_avg", "exp_avg_sq") if is_adamw else ("momentum_buffer",)


def _is_momentum(values: object, parameter: Tensor, names: tuple[str, ...]) -> bool:
    """Whether `values` is the optimiser state of one parameter."""
    expected = dict.fromkeys(names, parameter)
    if len(names) > 1:
        expected["step"] = torch.empty(())
    return (
        isinstance(values, dict)
        and values.keys() == expected.keys()
        and not any(_misfit(values[name], like) for name, like in expected.items())
    )


def _misfit(found: object, expected: Tensor) -> str | None:
    """Why a tensor cannot replace the expected one; None if it can."""
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_meta:
        return "is not a tensor with numbers"
    if found.shape != expected.shape:
        return f"is {tuple(found.shape)} instead of {tuple(expected.shape)}"
    if found.is_floating_point() != expected.is_floating_point() or found.is_complex():
        return f"is {found.dtype} instead of {expected.dtype}"
    return None
