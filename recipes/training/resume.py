"""What a checkpoint holds, checked against the run that is to go on from it.

A file may be whole and yet of another run, of an edited recipe, or put together by hand. Everything is
checked before anything is loaded.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import from_dict
from fusedface.recipes.training.checkpoint import Checkpoint, unusable
from fusedface.recipes.training.meter import FIGURES
from fusedface.recipes.training.progress import Progress
from fusedface.recipes.training.seeding import set_rng_state

MAX_LISTED = 5  # names in a message


def recipe_of(checkpoint: Checkpoint) -> Recipe:
    """The recipe that it was trained with."""
    values = _entry(checkpoint, "recipe")
    try:
        return from_dict(values)
    except ValueError as error:
        raise unusable(checkpoint.path, f"its recipe cannot be read: {error}") from None


def progress_of(checkpoint: Checkpoint, num_steps: int) -> tuple[Progress, Tensor]:
    """How far it is in a run of `num_steps`, and the rows of the meter, (n, figures)."""
    values = dict(_entry(checkpoint, "progress"))
    meter = values.pop("meter", None)
    if not (_is_plain(meter) and meter.ndim == 2 and meter.shape[1] >= len(FIGURES)):
        raise unusable(checkpoint.path, "its progress.meter is not a table of measurements")
    try:
        progress = Progress.from_dict(values)
    except ValueError as error:
        raise unusable(checkpoint.path, str(error)) from None
    if progress.step != checkpoint.content["step"]:
        reason = f"its progress is that of step {progress.step}"
        raise unusable(checkpoint.path, reason)
    if progress.step > num_steps:
        reason = f"it is of step {progress.step}, and this run has {num_steps} steps"
        raise unusable(checkpoint.path, reason)
    return progress, meter


def tensors_of(
    checkpoint: Checkpoint, key: str, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of "model" or "head", which have the names and shapes of `expected`."""
    found = _entry(checkpoint, key)
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{str(name)[:80]} is unexpected" for name in found if name not in expected]
    for name, ours in expected.items():
        if name in found and (reason := _misfit(found[name], ours)):
            problems.append(f"{name} {reason}")
    if problems:
        more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        listed = "; ".join(problems[:MAX_LISTED]) + more
        raise unusable(checkpoint.path, f"its {key} does not fit this recipe: {listed}")
    return found


def momentum_of(
    checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, may_be_empty: bool
) -> dict[str, Any]:
    """What `optimizer.load_state_dict` takes: momentum as it was, settings as the recipe has them.

    Args:
        checkpoint: a checkpoint.
        optimizer: over the parameters of the recipe's network and head.
        may_be_empty: whether no step may have been taken yet.
    """
    state = _entry(checkpoint, "optimizer").get("state")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(state, dict) or not (
        (may_be_empty and not state) or set(state) == set(range(len(parameters)))
    ):
        reason = "its optimizer holds no momentum of just the parameters of this recipe"
        raise unusable(checkpoint.path, reason)
    for index in sorted(state):
        values = state[index]
        momentum = values.get("momentum_buffer") if isinstance(values, dict) else None
        if set(values) != {"momentum_buffer"} or _misfit(momentum, parameters[index]):
            raise unusable(checkpoint.path, f"its optimizer's state {index} is not momentum")
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


def restore_scaler(checkpoint: Checkpoint, scaler: torch.amp.GradScaler) -> None:
    """Put a gradient scaler where it was; a run that had none begins with a fresh one."""
    state = _entry(checkpoint, "scaler")
    if not state or not scaler.is_enabled():
        return
    numbers = all(type(value) in (int, float) for value in state.values())
    if not numbers or set(state) != set(scaler.state_dict()):
        raise unusable(checkpoint.path, "its scaler holds no state of a gradient scaler")
    scaler.load_state_dict(state)


def restore_generators(checkpoint: Checkpoint) -> None:
    """Put all random generators where they were."""
    state = _entry(checkpoint, "rng")
    try:
        set_rng_state(state)
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError):
        reason = "its rng holds no states of random generators"
        raise unusable(checkpoint.path, reason) from None


def _entry(checkpoint: Checkpoint, key: str) -> dict[Any, Any]:
    value = checkpoint.content.get(key)
    if not isinstance(value, dict):
        what = "is missing" if value is None else f"is a {type(value).__name__}"
        raise unusable(checkpoint.path, f"its entry {key!r} {what}, it must be a dictionary")
    return value


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor of floating-point numbers that can be copied."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and value.is_floating_point()
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
