"""A step on the rows that a sparse gradient has: by hand, and nothing else moves."""

import copy

import pytest
import torch

from fusedface.models import MarginHead, update_only_sampled

ROWS, DIM = 12, 3
KINDS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01),
}
STEPS = [[0, 3, 7], [3, 4], [0, 1, 2, 3], [7]]


def sparse(rows, seed):
    values = torch.randn(len(rows), DIM, generator=torch.Generator().manual_seed(seed))
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (ROWS, DIM), check_invariants=True)


def run(kind, steps=STEPS):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(ROWS, DIM))
    optimizer = update_only_sampled(KINDS[kind]([parameter]))
    for number, rows in enumerate(steps):
        before, version = parameter.detach().clone(), parameter._version
        parameter.grad = sparse(rows, number)
        optimizer.step()
        others = [row for row in range(ROWS) if row not in rows]
        assert torch.equal(parameter[others], before[others])
        assert not torch.equal(parameter[rows], before[rows])
        assert parameter.grad.is_sparse
        assert parameter._version > version  # as those who keep something made of it look for
    return parameter.detach(), optimizer


@pytest.mark.parametrize("kind", ["sgd", "plain sgd"])
def test_each_row_is_a_parameter_of_its_own(kind):
    """No catching up: a row makes the steps in which it is sampled, one after the other."""
    found, _ = run(kind)
    torch.manual_seed(0)
    rows = [torch.nn.Parameter(row) for row in torch.randn(ROWS, DIM)]
    optimizer = KINDS[kind](rows)
    for number, sampled in enumerate(STEPS):
        optimizer.zero_grad()
        values = sparse(sampled, number).to_dense()
        for row in sampled:
            rows[row].grad = values[row]
        optimizer.step()
    torch.testing.assert_close(found, torch.stack([*rows]).detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_of_all_rows_is_a_dense_one(kind):
    parameters = [torch.nn.Parameter(torch.ones(ROWS, DIM)) for _ in range(2)]
    first, second = (KINDS[kind]([p]) for p in parameters)
    update_only_sampled(first)
    for number in range(3):
        values = sparse(list(range(ROWS)), number)
        parameters[0].grad = values if number < 2 else values.to_dense()
        parameters[1].grad = values.to_dense()
        first.step(), second.step()
        assert torch.equal(*parameters)
    for name, value in first.state_dict()["state"].get(0, {}).items():
        expected = second.state_dict()["state"][0][name]
        assert expected is None or torch.equal(value, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimiser_goes_on_from_its_state(kind):
    """What is saved has the shape of the parameter, and is all that there is."""
    whole, _ = run(kind)
    parameter, optimizer = run(kind, STEPS[:2])
    saved = copy.deepcopy(optimizer.state_dict())
    for value in saved["state"].get(0, {}).values():
        assert value is None or value.ndim == 0 or value.shape == (ROWS, DIM)
    other = torch.nn.Parameter(parameter.clone())
    again = update_only_sampled(KINDS[kind]([other]))
    again.load_state_dict(saved)
    for number, rows in enumerate(STEPS[2:], start=2):
        other.grad = sparse(rows, number)
        again.step()
    assert torch.equal(other.detach(), whole)


def test_gradients_of_two_batches_are_added():
    torch.manual_seed(0)
    head = MarginHead(DIM, 50, sample_rate=0.2)
    optimizer = update_only_sampled(KINDS["sgd"](head.parameters()))
    x, y = torch.randn(4, DIM), torch.arange(4)
    kept = set()
    for _ in range(2):
        head(x, y).loss.backward()
        kept |= set(head.weight.grad.coalesce().indices()[0].tolist())
    before = head.weight.detach().clone()
    optimizer.step()
    moved = (head.weight != before).any(dim=1).nonzero()[:, 0].tolist()
    assert moved == sorted(kept)
    assert len(kept) > 10


@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_a_step_that_fails_loses_no_row(when):
    """Of two parameters the first may have moved; both have all their rows, and the next step is made."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(ROWS, DIM)) for _ in range(2)]
    optimizer = update_only_sampled(KINDS["sgd"](parameters))
    for parameter in parameters:
        parameter.grad = sparse(STEPS[0], 0)
    optimizer.step()
    before = [parameter.detach().clone() for parameter in parameters]
    momentum = [optimizer.state[p]["momentum_buffer"].clone() for p in parameters]

    def fail(*_):
        raise RuntimeError("out of memory")

    if when == "within":  # of all torch.optim, only a rate that is no number fails on the way
        optimizer.param_groups[0]["lr"] = None
        kind = TypeError
    else:
        register = {"before": "register_step_pre_hook", "after": "register_step_post_hook"}[when]
        handle, kind = getattr(optimizer, register)(fail), RuntimeError
    for parameter in parameters:
        parameter.grad = sparse(STEPS[1], 1)
    with pytest.raises(kind):
        optimizer.step()
    others = [row for row in range(ROWS) if row not in STEPS[1]]
    for parameter, old, state in zip(parameters, before, momentum, strict=True):
        assert parameter.shape == (ROWS, DIM)
        assert parameter.grad.is_sparse
        assert torch.equal(parameter[others], old[others])
        buffer = optimizer.state[parameter]["momentum_buffer"]
        assert buffer.shape == (ROWS, DIM)
        assert torch.equal(buffer[others], state[others])
        if when == "before":
            assert torch.equal(parameter, old)
    if when == "within":
        optimizer.param_groups[0]["lr"] = 0.1
    else:
        handle.remove()
    optimizer.step()


def test_schedules_and_gradient_scalers_count_its_steps(recwarn):
    parameter = torch.nn.Parameter(torch.ones(ROWS, DIM))
    optimizer = update_only_sampled(KINDS["sgd"]([parameter]))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for number in range(2):
        scaler.scale(torch.ones(()))  # of a loss
        parameter.grad = sparse([0, 1], number) * 4.0
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**2
    assert not [w for w in recwarn if "lr_scheduler.step()" in str(w.message)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_copy_steps_alike(kind):
    """Torch copies only the state of an optimiser."""
    parameter, optimizer = run(kind, STEPS[:2])
    copied = copy.deepcopy(optimizer)
    (other,) = copied.param_groups[0]["params"]
    (original,) = optimizer.param_groups[0]["params"]
    assert other is not original
    assert torch.equal(other, parameter)
    before = parameter.clone()
    for weight, stepped in ((original, optimizer), (other, copied)):
        weight.grad = sparse(STEPS[2], 2)
        stepped.step()
    assert torch.equal(other, original)
    untouched = [row for row in range(ROWS) if row not in STEPS[2]]
    assert torch.equal(other[untouched], before[untouched])
