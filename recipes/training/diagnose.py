"""Find the first tensor of a training step that is not finite."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from fusedface.models import Backbone
from fusedface.models.sampled_rows import stored

THE_LOSS = "the loss"


class NonFiniteTrainingError(RuntimeError):
    """Loss or gradient became NaN or infinite; the message names step and tensor."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


def non_finite_error(
    found: Sequence[str], step: int, steps_ago: int, lr: float
) -> NonFiniteTrainingError:
    """The error for a step that was not finite.

    Args:
        found: what `first_non_finite` names on each process.
        step: the step, counted from 0.
        steps_ago: how many steps were made since, before it was read.
        lr: the learning rate of the step.
    """
    rank = next((r for r, what in enumerate(found) if what != THE_LOSS), 0)
    what = found[rank] + (f" on rank {rank}" if rank else "")
    if steps_ago > 0:
        what += f" ({steps_ago} steps later, when it was read)"
    return NonFiniteTrainingError(
        step + 1,
        f"not finite at step {step + 1} (learning rate {lr:.3g}), first {what}. The last good checkpoint "
        "is kept; a longer warm-up, a lower optim.lr or optim.clip_norm may help",
    )


def first_non_finite(model: Backbone, head: nn.Module, images: Tensor) -> str:
    """Name the first tensor that is not finite.

    The order is images, weights, activations, gradients; if all of these are finite, it is the loss.

    Args:
        model: the backbone in its state after the bad step, with its gradients if there are any.
        head: the head in the same state.
        images: the input of the backbone, (B, 3, H, W).
    """
    if not images.isfinite().all():
        return "the images"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.isfinite().all():
            return f"the backbone's {name}"
    if name := _first_activation(model, images):
        return f"what the backbone's {name} puts out"
    for name, tensor in head.state_dict().items():
        if not tensor.isfinite().all():
            return f"the head's {name}"
    for name, gradient in _gradients(model, head):
        if not gradient.isfinite().all():
            return f"the gradient of {name}"
    return THE_LOSS


def _first_activation(model: Backbone, images: Tensor) -> str | None:
    """The first layer whose output is not finite; the forward pass leaves the statistics unchanged."""
    found: list[str] = []

    def watch(name: str):
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not found and not output.isfinite().all():
                found.append(name)

        return hook

    layers = [(name, module) for name, module in model.named_modules() if not [*module.children()]]
    hooks = [module.register_forward_hook(watch(name)) for name, module in layers]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
        for name, buffer in model.named_buffers():  # running statistics of batch normalisation
            buffer.copy_(buffers[name])
    return found[0] if found else None


def _gradients(model: Backbone, head: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Gradients in the order of a backward pass, so those of the head first."""
    parameters = [(f"the backbone's {name}", p) for name, p in model.named_parameters()]
    parameters += [(f"the head's {name}", p) for name, p in head.named_parameters()]
    for name, parameter in reversed(parameters):
        if parameter.grad is not None:
            yield name, stored(parameter.grad)
