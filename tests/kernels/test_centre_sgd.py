"""CentreSGD where no kernel runs: torch's SGD."""

import copy
import pickle
from types import SimpleNamespace

import torch

from fusedface.kernels import CentreSGD


def make(optimizer_of):
    generator = torch.Generator().manual_seed(0)
    centres, bias = (
        torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((7, 5), (3,))
    )
    return (
        centres,
        bias,
        optimizer_of([{"params": [bias], "lr": 0.2}, {"params": [centres]}], centres),
    )


RATES = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}


def steps(centres, bias, optimizer, num=3):
    for step in range(num):
        centres.grad, bias.grad = centres.detach().cos() * step, bias.detach().sin()
        optimizer.step()
    return centres, bias


def test_on_a_cpu_it_is_torchs():
    ours = make(lambda groups, centres: CentreSGD(groups, centres, **RATES))
    theirs = make(lambda groups, centres: torch.optim.SGD(groups, **RATES))
    assert all(map(torch.equal, steps(*ours), steps(*theirs)))
    states = copy.deepcopy((theirs[2].state_dict(), ours[2].state_dict()))
    ours[2].load_state_dict(states[0])
    theirs[2].load_state_dict(states[1])
    assert all(map(torch.equal, steps(*ours), steps(*theirs)))
    ours[2].forget()  # there is nothing to forget


def test_a_state_from_another_device_does_not_decide_how_to_step():
    """On a GPU fused steps take the loss scale, and others refuse it."""
    *_, ours = make(lambda groups, centres: CentreSGD(groups, centres, **RATES))
    before = [(group["foreach"], group["fused"]) for group in ours.param_groups]
    *_, theirs = make(lambda groups, centres: torch.optim.SGD(groups, fused=True, **RATES))
    theirs.param_groups[0]["lr"] = 0.3
    ours.load_state_dict(theirs.state_dict())
    assert [(group["foreach"], group["fused"]) for group in ours.param_groups] == before
    assert ours.param_groups[0]["lr"] == 0.3


def test_hooks_run_once_and_copies_go_on():
    centres, bias, optimizer = make(lambda groups, centres: CentreSGD(groups, centres, **RATES))
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(1))
    steps(centres, bias, optimizer, 2)
    assert len(seen) == 2
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        groups = again.param_groups
        copied = groups[1]["params"][0], groups[0]["params"][0]
        expected = copy.deepcopy((centres, bias, optimizer))
        assert all(map(torch.equal, steps(*copied, again, 1), steps(*expected, 1)))


def test_before_torchs_own_step_the_unit_rows_are_dropped():
    """Its fused step writes class centres without counting it: with `maximize`, say."""
    *rest, optimizer = make(lambda groups, centres: CentreSGD(groups, centres, **RATES))
    dropped = []
    optimizer._kernels = SimpleNamespace(forget=dropped.append)
    optimizer.param_groups[1]["maximize"] = True
    steps(*rest, optimizer, 2)
    assert len(dropped) == 2
    assert all(centres is rest[0] for centres in dropped)
