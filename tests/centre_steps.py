"""Class centres, gradients and steps of SGD by the kernel, for tests of unit rows that steps leave."""

import torch

from fusedface.kernels.gpu import centre_step, class_centres, normalised

CLASSES, DIM = 70, 20


def centres(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter(torch.randn(CLASSES, DIM, generator=generator).to(dtype))


def with_gradient(weight, seed):
    generator = torch.Generator().manual_seed(seed)
    weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)
    return weight.grad


def step_of(weight, momentum=None, *, scale=None, found_inf=None):
    rates = centre_step.Rates(0.1, 0.9, 1e-3, nesterov=True)
    number = lambda value: None if value is None else torch.tensor([value])  # noqa: E731
    class_centres.follow(weight)
    grad = weight.grad
    centre_step.step(weight, grad, momentum, rates, number(scale), number(found_inf))


def are_those_of(weight, kept):
    made = normalised.unit_rows(weight, "float32", len(kept.rows))
    return torch.equal(kept.rows, made.rows) and torch.equal(kept.inverse, made.inverse)
