"""Class centres that learn in the backward, against torch.optim.SGD on their whole gradient in float64."""

import copy
import math

import pytest
import torch
from margin_oracle import all_margins, inputs

from fusedface.kernels import CentreSGD, CurricularFace
from fusedface.kernels.gpu import class_centres, layout
from fusedface.models import MarginHead, update_only_sampled

# Two chunks, the last one shorter; columns that are no multiple of four.
ROWS, CLASSES, DIM = 11, 200, 18
SETTINGS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}


@pytest.fixture(autouse=True)
def _in_chunks(monkeypatch):
    monkeypatch.setattr(layout, "CHUNK_BYTES", 1)
    for name in ("CHUNK_MULTIPLE", "UPDATE_MULTIPLE"):
        monkeypatch.setattr(layout, name, 128)
    assert layout.update_classes(ROWS, CLASSES, DIM, "float32") == 128


def head_and_sgd(name="nesterov", margin=None, optimizer_of=torch.optim.SGD, fuse=None, **options):
    torch.manual_seed(0)
    margin = margin or CurricularFace(s=16.0)
    head = MarginHead(DIM, CLASSES, margin, backend="triton", precision="float32", **options)
    optimizer = optimizer_of(head.parameters(), lr=0.1, **SETTINGS[name])
    head.fuse(optimizer, **(fuse or {}))
    return head, optimizer


def truth_of(head, name="nesterov"):
    """The same head in float64, with an ordinary optimiser."""
    other = MarginHead(DIM, CLASSES, head.margin, backend="reference").double()
    other.load_state_dict(head.state_dict())
    return other, torch.optim.SGD(other.parameters(), lr=0.1, **SETTINGS[name])


def train(head, optimizer, steps=2, factor=1.0):
    """The gradients of the embeddings."""
    gradients = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        x, _, labels = inputs(ROWS, CLASSES, DIM, seed=step, dtype=head.weight.dtype)
        labels[step], labels[5] = -1, CLASSES - 1
        x.requires_grad_()
        optimizer.zero_grad()
        (head(x, labels).loss * factor).backward()
        optimizer.step()
        gradients.append(x.grad)
    return torch.stack(gradients)


def hold(actual, truth):
    torch.testing.assert_close(actual.double(), truth, rtol=1e-4, atol=2e-5 * truth.abs().max())


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.usefixtures("schedule")
def test_it_is_sgd(name):
    head, optimizer = head_and_sgd(name)
    other, reference = truth_of(head, name)
    start = other.weight.detach().clone()
    hold(train(head, optimizer), train(other, reference))
    assert head.weight.grad is None
    hold(head.weight.detach() - start, other.weight.detach() - start)
    if "momentum" in SETTINGS[name]:
        hold(
            *(
                o.state[h.weight]["momentum_buffer"]
                for h, o in ((head, optimizer), (other, reference))
            )
        )


@pytest.mark.parametrize("name", ["cosface", "mvarc", "magface"])
@pytest.mark.usefixtures("schedule")
def test_with_other_margins(name):
    margin = all_margins(s=16.0)[name]
    head, optimizer = head_and_sgd(margin=margin)
    other, reference = truth_of(head)
    hold(train(head, optimizer, steps=1), train(other, reference, steps=1))
    hold(head.weight.detach(), other.weight.detach())


@pytest.mark.parametrize("reason", ["flag", "nan", "one row"])
def test_a_step_that_is_left_out_changes_nothing(reason):
    head, optimizer = head_and_sgd(reduction="none")
    x, _, labels = inputs(ROWS, CLASSES, DIM)
    factors = torch.ones(ROWS)
    (head(x, labels).loss * factors).sum().backward()
    before = head.weight.detach().clone(), optimizer.state[head.weight]["momentum_buffer"].clone()
    head.fused.skip.fill_(reason == "flag")
    factors[{"flag": [], "nan": slice(None), "one row": 3}[reason]] = math.nan
    (head(x, labels).loss * factors).sum().backward()
    assert torch.equal(head.weight, before[0])
    assert torch.equal(optimizer.state[head.weight]["momentum_buffer"], before[1])


def test_a_scaled_loss():
    scaler = type("Scaler", (torch.amp.GradScaler,), {})("cpu", init_scale=2.0**10)
    one, two = head_and_sgd(fuse={"scaler": scaler}), head_and_sgd()
    train(*one, steps=1, factor=2.0**10)
    train(*two, steps=1)
    torch.testing.assert_close(one[0].weight, two[0].weight, rtol=1e-6, atol=0)


def test_sampled_rows_make_the_step_and_no_others():
    head, optimizer = head_and_sgd(sample_rate=0.5)
    update_only_sampled(optimizer)
    torch.manual_seed(0)
    other = MarginHead(
        DIM, CLASSES, head.margin, backend="chunked", precision="float32", sample_rate=0.5
    )
    reference = torch.optim.SGD(other.parameters(), lr=0.1, **SETTINGS["nesterov"])
    other.fuse(reference)
    start, found = head.weight.detach().clone(), []
    for one in ((head, optimizer), (other, reference)):
        torch.manual_seed(1)
        found.append(train(*one))
    hold(found[0], found[1].double())
    hold(head.weight.detach(), other.weight.detach().double())
    moved = (head.weight != start).any(dim=1)
    assert CLASSES / 2 <= moved.sum() < CLASSES
    assert torch.equal(moved, (other.weight != start).any(dim=1))


def test_kept_unit_rows_of_old_class_centres_are_not_used():
    optimizer_of = lambda parameters, **rates: CentreSGD(  # noqa: E731
        (kept := list(parameters)), kept[0], **rates
    )
    head, optimizer = head_and_sgd(optimizer_of=optimizer_of)
    other, reference = truth_of(head)
    head.fused, fused = None, head.fused
    train(head, optimizer, steps=1)  # an ordinary step, which leaves unit rows
    assert class_centres.unit_rows(head.weight, "float32", training=True) is not None
    head.fused = fused
    train(head, optimizer)
    assert class_centres.unit_rows(head.weight, "float32", training=True) is None
    for steps in (1, 2):
        train(other, reference, steps=steps)
    hold(head.weight.detach(), other.weight.detach())


@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_two_backwards_of_one_state_are_refused(sample_rate):
    head, _ = head_and_sgd(sample_rate=sample_rate)
    x, _, labels = inputs(ROWS, CLASSES, DIM)
    x.requires_grad_()
    first, second = head(x, labels).loss, head(x, labels).loss
    first.backward()
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|changed between"):
        second.backward()


def test_in_evaluation_there_is_a_gradient_and_no_step():
    head, _ = head_and_sgd()
    before = head.weight.detach().clone()
    x, _, labels = inputs(ROWS, CLASSES, DIM)
    head.eval()(x, labels).loss.backward()
    assert torch.equal(head.weight, before)
    assert head.weight.grad is not None
    assert copy.deepcopy(head).fused is None
