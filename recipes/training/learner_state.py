"""The entries of a checkpoint that a learner has, and how a learner takes them over."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from fusedface.recipes.training.checkpoint import DISTILLER, IN_TRAINING, Checkpoint
from fusedface.recipes.training.optim import plain_state
from fusedface.recipes.training.own_rows import with_rows, without_rows
from fusedface.recipes.training.rates import CENTRES

if TYPE_CHECKING:
    from fusedface.recipes.training.learner import Learner


def state_of(learner: "Learner") -> dict[str, Any]:
    """Its entries of a checkpoint, without the rows of the meter, and without split class centres."""
    more = {} if learner.average is None else {IN_TRAINING: learner.model.state_dict()}
    if learner.distiller is not None:
        more[DISTILLER] = learner.distiller.state_dict()
    content = {
        "backbone": learner.model.config,
        "preprocessing": learner.model.preprocessing.as_dict(),
        "model": learner.network.state_dict(),
        "head": learner.head.state_dict(),
        "optimizer": plain_state(learner.optimizer),
        "scaler": learner.scaler.state_dict(),
        **more,
    }
    if learner.head.shard is None:
        return content
    return without_rows(content, learner.optimizer, learner.head.weight)


def load_state(learner: "Learner", checkpoint: Checkpoint, meter: Tensor, *, step: int) -> None:
    """Go on from a checkpoint; nothing changes unless all of it fits.

    Args:
        learner: changed in place.
        checkpoint: a checkpoint that was saved with `state_of`.
        meter: the rows of the meter, (n, figures).
        step: number of steps made so far, which decides where momentum must exist.

    Raises:
        ValueError: it is of another network or head, or an entry is damaged.
    """
    head = learner.head
    checkpoint = with_rows(
        checkpoint, learner.optimizer, head.weight, head.classes, head.num_classes
    )
    network = checkpoint.tensors("model", learner.model.state_dict())
    model = network
    if IN_TRAINING in checkpoint.content:
        model = checkpoint.tensors(IN_TRAINING, learner.model.state_dict())
    state = checkpoint.tensors("head", head.state_dict())
    distiller = None
    if learner.distiller is not None:
        distiller = checkpoint.tensors(DISTILLER, learner.distiller.state_dict())
    may_lack = _without_momentum(learner, step)
    momentum = checkpoint.momentum(learner.optimizer, may_lack=may_lack)
    scaler = checkpoint.scaler(learner.scaler)
    learner.model.load_state_dict(model)
    if learner.average is not None:
        learner.average.model.load_state_dict(network)
    head.load_state_dict(state)
    if learner.distiller is not None and distiller is not None:
        learner.distiller.load_state_dict(distiller)
    learner.optimizer.load_state_dict(momentum)
    if scaler is not None:
        learner.scaler.load_state_dict(scaler)
    learner.meter.restore(meter, learner.precision.device)


def _without_momentum(learner: "Learner", step: int) -> list[str]:
    """The groups of parameters that may have no momentum after so many steps."""
    names = [group["name"] for group in learner.optimizer.param_groups]
    # A gradient scaler skips steps, at first all of them.
    if step == 0 or learner.scaler.is_enabled():
        return names
    if not learner.head.weight.requires_grad:
        return [CENTRES]
    return [name for name in names if name != CENTRES] if step <= learner.plan.freeze else []
