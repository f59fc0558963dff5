"""The update of class centres within a backward is that of torch.optim.SGD, without their gradient."""

import copy
import math

import pytest
import torch
from margin_oracle import all_margins, inputs
from torch.utils._python_dispatch import TorchDispatchMode

from fusedface.kernels import ArcFace, CurricularFace, margin_loss
from fusedface.kernels.interface.update import CentreUpdate
from fusedface.kernels.rounding import rounded
from fusedface.kernels.sampling import LARGEST
from fusedface.kernels.sgd import RowsSGD
from fusedface.models import MarginHead, update_only_sampled

DIM, ROWS, CLASSES = 8, 16, 300
SETTINGS = {
    "plain": {},
    "decay": {"weight_decay": 0.01},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}


def head_and_sgd(settings="nesterov", dtype=torch.float64, fused=True, margin=None, **options):
    torch.manual_seed(0)
    head = MarginHead(DIM, CLASSES, margin or CurricularFace(s=16.0), backend="chunked").to(dtype)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, **SETTINGS[settings])
    if fused:
        head.fuse(optimizer, **options)
    return head, optimizer


def train(head, optimizer, steps=3, first=0, dtype=torch.float64):
    """The gradients of the embeddings."""
    gradients = []
    for step in range(first, first + steps):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        rows, _, labels = inputs(ROWS, CLASSES, DIM, seed=step, dtype=dtype)
        labels[step] = -1
        rows.requires_grad_()
        optimizer.zero_grad()
        head(rows, labels).loss.backward()
        optimizer.step()
        gradients.append(rows.grad)
    return torch.stack(gradients)


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_sgd(name):
    one, two = head_and_sgd(name), head_and_sgd(name, fused=False)
    torch.testing.assert_close(train(*one), train(*two), rtol=1e-10, atol=1e-13)
    assert one[0].weight.grad is None
    torch.testing.assert_close(one[0].weight, two[0].weight, rtol=1e-10, atol=1e-13)
    states = [o.state_dict()["state"].get(0, {}).get("momentum_buffer") for _, o in (one, two)]
    torch.testing.assert_close(*states, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", all_margins())
def test_with_every_margin(name):
    margin = all_margins(s=16.0)[name]
    one, two = (head_and_sgd(fused=fused, margin=margin) for fused in (True, False))
    torch.testing.assert_close(train(*one), train(*two), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one[0].weight, two[0].weight, rtol=1e-9, atol=1e-12)


def test_in_float32_to_rounding():
    one, two = (head_and_sgd(dtype=torch.float32, fused=fused) for fused in (True, False))
    train(*one, 1, dtype=torch.float32)
    train(*two, 1, dtype=torch.float32)
    largest = two[0].weight.abs().max()
    assert (one[0].weight - two[0].weight).abs().max() < 1e-6 * largest


def test_a_scaled_loss():
    class Scaler(torch.amp.GradScaler):
        def __init__(self):
            super().__init__("cpu", init_scale=2.0**10)

    scaler = Scaler()
    one, two = head_and_sgd(scaler=scaler), head_and_sgd()
    rows, _, labels = inputs(ROWS, CLASSES, DIM, dtype=torch.float64)
    scaler.scale(one[0](rows, labels).loss).backward()
    two[0](rows, labels).loss.backward()
    torch.testing.assert_close(one[0].weight, two[0].weight, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reason", ["flag", "nan"])
def test_a_step_that_is_left_out_changes_nothing(reason):
    head, optimizer = head_and_sgd()
    train(head, optimizer)
    weight = head.weight.detach().clone()
    momentum = optimizer.state[head.weight]["momentum_buffer"].clone()
    rows, _, labels = inputs(ROWS, CLASSES, DIM, dtype=torch.float64)
    head.fused.skip.fill_(reason == "flag")
    (head(rows, labels).loss * (math.nan if reason == "nan" else 1.0)).backward()
    assert torch.equal(head.weight, weight)
    assert torch.equal(optimizer.state[head.weight]["momentum_buffer"], momentum)


@pytest.mark.parametrize("row", [0, 2])
def test_one_row_that_is_not_finite_leaves_the_step_out(row):
    upstream = torch.ones(3, 1)
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    update = CentreUpdate(None, one, one, zero.bool(), zero.long(), 0.0, False, 0.0)
    assert not RowsSGD(torch.ones(4, 2), update, upstream, upstream).does_nothing
    upstream[row] = math.inf
    assert RowsSGD(torch.ones(4, 2), update, torch.ones(3, 1), upstream).does_nothing


class NewStorages(TorchDispatchMode):
    """Remembers the largest storage that was made, in bytes."""

    def __init__(self, known):
        super().__init__()
        self.known, self.largest = {t.untyped_storage().data_ptr() for t in known}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.largest = max(self.largest, storage.nbytes())
        return result


@pytest.mark.parametrize(
    ("weights", "momentum"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
    ],
)
def test_nothing_of_the_size_of_the_class_centres_is_made(weights, momentum):
    classes, rows = 60_000, 512
    head = MarginHead(DIM, classes, backend="chunked").to(weights)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    head.fuse(optimizer, momentum_dtype=momentum)
    buffer = optimizer.state[head.weight]["momentum_buffer"]
    assert (head.weight.dtype, buffer.dtype) == (weights, momentum)
    x, y = torch.randn(rows, DIM, requires_grad=True), torch.randint(classes, (rows,))
    with NewStorages([head.weight, buffer]) as seen:
        head(x, y).loss.backward()
        optimizer.step()
    # Four chunk buffers of 2**19 numbers are one storage each, or two of them.
    assert seen.largest <= 2 * 4 * 2**19
    assert 2 * seen.largest > classes * DIM  # so that the class centres would have been seen


def test_rounding_by_chance_keeps_the_expectation():
    values = torch.tensor([[1.0, 1.001, -3.1415926, 1e-30, 2.0**-130, 65000.0, 0.0, -0.0]])
    values = values.repeat(1, 3)[:, :21]  # no multiple of four
    seeds = torch.arange(4000)
    found = torch.stack([rounded(values, seed, 0) for seed in seeds]).double()
    down = (values.view(torch.int32) & -(2**16)).view(torch.float32).double()
    up = ((values.view(torch.int32) & -(2**16)) + 2**16).view(torch.float32).double()
    is_exact = down == values.double()
    assert ((found == down) | (found == up)).all()
    assert torch.equal(found[0][is_exact], values.double()[is_exact])
    gap = (up - down).abs()
    share = ((values.double() - down).abs() / gap)[~is_exact]
    deviation = gap[~is_exact] * (share * (1 - share) / len(seeds)).sqrt()
    error = (found.mean(dim=0) - values.double())[~is_exact].abs()
    assert (error <= 5 * deviation).all()


def test_rounding_knows_the_row_and_leaves_what_is_not_finite():
    values = torch.randn(40, 6)
    seed = torch.tensor(7)
    whole = rounded(values, seed, 0)
    assert torch.equal(
        torch.cat([rounded(values[:13], seed, 0), rounded(values[13:], seed, 13)]), whole
    )
    assert not torch.equal(rounded(values, seed + 1, 0), whole)
    odd = torch.tensor([[math.inf, -math.inf, math.nan]])
    kept = rounded(odd, seed, 0)
    assert torch.equal(kept[:, :2], odd[:, :2].bfloat16())
    assert kept[0, 2].isnan()


def test_small_steps_are_not_lost_in_bfloat16():
    """Many steps, each below half a unit of bfloat16, which rounding to nearest would lose."""
    drift = {}
    for dtype in (torch.float64, torch.bfloat16):
        torch.manual_seed(0)
        head = MarginHead(DIM, CLASSES, ArcFace(s=16.0), backend="chunked").to(dtype)
        torch.nn.init.ones_(head.weight)
        optimizer = torch.optim.SGD(head.parameters(), lr=1e-3, weight_decay=0.5)
        head.fuse(optimizer)
        x, y = torch.ones(2, DIM, dtype=dtype), torch.tensor([0, 1])
        for _ in range(100):
            head(x, y).loss.backward()
        drift[dtype] = 1.0 - head.weight.detach().double().mean().item()
    assert drift[torch.float64] > 0.04
    # 2,400 numbers, each a walk of 100 steps of at most 2^-8: a deviation of 1e-3 for their mean at most
    assert drift[torch.bfloat16] == pytest.approx(drift[torch.float64], abs=4e-3)


def test_a_seed_decides_the_rounding():
    weights = []
    for seed in (0, 0, 1):
        head, optimizer = head_and_sgd(dtype=torch.bfloat16)
        torch.manual_seed(seed)
        train(head, optimizer, dtype=torch.bfloat16)
        weights.append(head.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_loaded_optimiser_goes_on():
    def float32_with_small_momentum():
        return head_and_sgd(dtype=torch.float32, momentum_dtype=torch.bfloat16)

    head, optimizer = float32_with_small_momentum()
    train(head, optimizer, 2, dtype=torch.float32)
    saved = copy.deepcopy((head.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
    train(head, optimizer, 2, first=2, dtype=torch.float32)
    other, again = float32_with_small_momentum()
    other.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    train(other, again, 2, first=2, dtype=torch.float32)
    assert torch.equal(other.weight, head.weight)
    assert again.state[other.weight]["momentum_buffer"].dtype == torch.bfloat16


def test_in_evaluation_there_is_a_gradient_and_no_step():
    head, _ = head_and_sgd()
    before = head.weight.detach().clone()
    rows, _, labels = inputs(ROWS, CLASSES, DIM, dtype=torch.float64)
    head.eval()(rows, labels).loss.backward()
    assert torch.equal(head.weight, before)
    assert head.weight.grad is not None
    assert copy.deepcopy(head).fused is None


def test_two_backwards_of_one_state_are_refused():
    head, _ = head_and_sgd()
    rows, _, labels = inputs(ROWS, CLASSES, DIM, dtype=torch.float64)
    first, second = head(rows, labels).loss, head(rows, labels).loss
    first.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        second.backward()


def test_mistakes_are_named():
    head, optimizer = head_and_sgd(fused=False)
    with pytest.raises(TypeError, match=r"torch\.optim\.SGD only, got .*AdamW"):
        head.fuse(torch.optim.AdamW(head.parameters()))
    with pytest.raises(ValueError, match="must have the head's class centres"):
        head.fuse(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]))
    with pytest.raises(ValueError, match="knows no maximize"):
        head.fuse(torch.optim.SGD(head.parameters(), maximize=True))
    with pytest.raises(TypeError, match=r"momentum_dtype must be .*, got torch\.float16"):
        head.fuse(optimizer, momentum_dtype=torch.float16)
    with pytest.raises(ValueError, match="backend='reference' has no update"):
        MarginHead(DIM, CLASSES, backend="reference").fuse(optimizer)
    update = head.fuse(optimizer).next()
    rows, weight, labels = inputs(ROWS, CLASSES, DIM)
    with pytest.raises(ValueError, match="backend='reference' has no update"):
        margin_loss(rows, weight, labels, ArcFace(), update=update, backend="reference")


def sampled_head(fused, **options):
    torch.manual_seed(0)
    head = MarginHead(DIM, CLASSES, CurricularFace(s=16.0), sample_rate=0.3).double()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, **SETTINGS["nesterov"])
    if fused:
        head.fuse(optimizer, **options)
    return head, update_only_sampled(optimizer)


def sampled_step(head, optimizer, step):
    """Its gradient of the embeddings; the samples are the same with and without a fused update."""
    rows, _, labels = inputs(ROWS, CLASSES, DIM, seed=step, dtype=torch.float64)
    rows.requires_grad_()
    torch.manual_seed(step)
    if head.fused is None:
        torch.randint(LARGEST, ())  # as a fused update does, for its rounding
    optimizer.zero_grad()
    head(rows, labels).loss.backward()
    optimizer.step()
    return rows.grad


def test_sampled_rows_make_the_step_that_the_optimiser_would_make():
    one, two = sampled_head(True), sampled_head(False)
    for step in range(4):
        before = one[0].weight.detach().clone()
        torch.testing.assert_close(
            sampled_step(*one, step), sampled_step(*two, step), rtol=1e-10, atol=1e-13
        )
        moved = (one[0].weight != before).any(dim=1)
        assert moved.sum() == math.ceil(0.3 * CLASSES)
        assert torch.equal(moved, two[0].weight.grad.to_dense().ne(0).any(dim=1))
        torch.testing.assert_close(one[0].weight, two[0].weight, rtol=1e-10, atol=1e-13)
        buffers = [o.state[h.weight]["momentum_buffer"] for h, o in (one, two)]
        torch.testing.assert_close(*buffers, rtol=1e-10, atol=1e-13)
    assert one[0].weight.grad is None


@pytest.mark.parametrize("reason", ["flag", "nan"])
def test_a_sampled_step_that_is_left_out_changes_nothing(reason):
    head, optimizer = sampled_head(True)
    sampled_step(head, optimizer, 0)
    weight = head.weight.detach().clone()
    momentum = optimizer.state[head.weight]["momentum_buffer"].clone()
    rows, _, labels = inputs(ROWS, CLASSES, DIM, dtype=torch.float64)
    head.fused.skip.fill_(reason == "flag")
    (head(rows, labels).loss * (math.nan if reason == "nan" else 1.0)).backward()
    assert torch.equal(head.weight, weight)
    assert torch.equal(optimizer.state[head.weight]["momentum_buffer"], momentum)


def test_a_sampled_step_on_old_class_centres_is_an_error():
    """Two forwards, then two backwards: the second would undo the first where both have a class."""
    head, _ = sampled_head(True)
    rows, _, labels = inputs(ROWS, CLASSES, DIM, dtype=torch.float64)
    rows.requires_grad_()
    first, second = (head(rows, labels).loss for _ in range(2))
    first.backward()
    with pytest.raises(RuntimeError, match="changed between this forward and its backward"):
        second.backward()


def test_sampled_bfloat16_rows_are_rounded_as_without_a_sample():
    """Rounding depends on the class, not on its place in the sample."""
    seed = torch.tensor(3)
    values = torch.randn(5, DIM)
    rows = torch.tensor([2, 3, 7, 200, 299])
    whole = torch.zeros(CLASSES, DIM)
    whole[rows] = values
    assert torch.equal(rounded(values, seed, rows), rounded(whole, seed, 0)[rows])
    shifted = rounded(values, seed, torch.tensor(40))
    assert torch.equal(shifted, rounded(values, seed, torch.arange(40, 45)))


def test_a_sampled_step_makes_nothing_of_the_size_of_the_class_centres():
    classes, rows = 60_000, 128
    head = MarginHead(DIM, classes, backend="chunked", sample_rate=0.01)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    head.fuse(optimizer)
    buffer = optimizer.state[head.weight]["momentum_buffer"]
    x, y = torch.randn(rows, DIM, requires_grad=True), torch.randint(classes, (rows,))
    with NewStorages([head.weight, buffer]) as seen:
        head(x, y).loss.backward()
        optimizer.step()
    assert seen.largest < classes * DIM * 4  # as drawing takes less than D numbers a class
