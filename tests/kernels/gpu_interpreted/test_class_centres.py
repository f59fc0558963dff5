"""The fused step of the class centres: torch's SGD, and unit rows that are never those of other centres."""

import copy

import pytest
import torch
from centre_steps import CLASSES, DIM, centres, step_of, with_gradient
from margin_oracle import inputs, without_form

from fusedface.kernels import CentreSGD, CurricularFace, MagFace
from fusedface.kernels.gpu import class_centres, normalised
from fusedface.models import MarginHead

RATES = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    {"lr": 0.3, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
]


@pytest.mark.parametrize("rates", RATES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_as_torchs_own(rates, dtype):
    """Class centres and another parameter, over some steps; states are exchanged in the middle."""
    ours, theirs, bias = (
        centres(dtype=dtype),
        centres(dtype=dtype),
        torch.nn.Parameter(torch.ones(3)),
    )
    other_bias = copy.deepcopy(bias)
    optimizer = CentreSGD([ours, bias], ours, **rates)
    reference = torch.optim.SGD([theirs, other_bias], **rates)
    for step in range(5):
        for weight in (ours, theirs):
            with_gradient(weight, step)
        bias.grad = other_bias.grad = torch.full((3,), 0.1 * step)
        if dtype == torch.float16:  # rounded once here, and at each operation there
            with torch.no_grad():
                theirs.copy_(ours)
            for name, buffer in optimizer.state.get(ours, {}).items():
                reference.state[theirs][name] = buffer.clone()
        version = ours._version
        optimizer.step()
        reference.step()
        assert ours._version == version + 1
        tolerance = 2e-6 if dtype == torch.float32 else 2**-9
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        assert torch.equal(bias, other_bias)
        if step == 2:
            states = optimizer.state_dict(), reference.state_dict()
            assert states[0]["state"].keys() == states[1]["state"].keys()
            optimizer.load_state_dict(states[1])
            reference.load_state_dict(states[0])


def test_the_loss_scale_is_divided_out():
    """By a power of two, which changes no bit."""
    scaled, plain = centres(), centres()
    with_gradient(plain, 1)
    scaled.grad = plain.grad * 1024
    momenta = torch.zeros_like(plain), torch.zeros_like(plain)
    step_of(plain, momenta[0])
    step_of(scaled, momenta[1], scale=1024.0, found_inf=0.0)
    assert torch.equal(scaled, plain)
    assert torch.equal(*momenta)


def test_a_step_that_is_skipped_changes_nothing_and_leaves_unit_rows():
    weight = centres()
    before, momentum = weight.detach().clone(), torch.ones(CLASSES, DIM)
    with_gradient(weight, 1)[3, 4] = torch.inf
    class_centres.follow(weight)
    assert class_centres.unit_rows(weight, "float32", training=True) is None
    step_of(weight, momentum, scale=2.0, found_inf=1.0)
    assert torch.equal(weight, before)
    assert torch.equal(momentum, torch.ones(CLASSES, DIM))
    unit = class_centres.unit_rows(weight, "float32", training=True)
    assert torch.equal(unit.rows, normalised.unit_rows(weight, "float32", len(unit.rows)).rows)


def test_a_skipped_first_step_leaves_no_momentum():
    """Torch's own fused step would leave what lay in memory: of other parameters too."""
    weight, other = centres(), torch.nn.Parameter(torch.ones(5))
    optimizer = CentreSGD([weight, other], weight, lr=0.1, momentum=0.9)
    for group in optimizer.param_groups:
        group["fused"] = True  # as on a GPU
    with_gradient(weight, 0)
    other.grad = torch.ones(5)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor([8.0]), torch.tensor([1.0])
    optimizer.step()
    for parameter in (weight, other):
        assert not optimizer.state[parameter]["momentum_buffer"].any()
    assert torch.equal(other, torch.ones(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "tf32"])
def test_unit_rows_are_those_that_a_forward_would_make(precision, dtype):
    """The same bits, so that a run that goes on from a checkpoint is the run that was never stopped."""
    weight = centres(dtype=dtype)
    weight.data[5] = 0.0
    class_centres.follow(weight)
    class_centres.unit_rows(weight, precision, training=True)
    with_gradient(weight, 1)[5] = 0.0
    step_of(weight)
    kept = class_centres.unit_rows(weight, precision, training=False)
    made = normalised.unit_rows(weight, precision, len(kept.rows))
    assert torch.equal(kept.rows, made.rows)
    assert torch.equal(kept.inverse, made.inverse)


def test_steps_write_unit_rows_to_the_same_memory_while_it_fits():
    weight = centres()
    class_centres.follow(weight)
    class_centres.unit_rows(weight, "float32", training=True)
    found = []
    for num in (CLASSES, CLASSES, 300):
        if num != CLASSES:
            weight.data = torch.randn(num, DIM)
        weight.grad = torch.ones(num, DIM)
        step_of(weight)
        found.append(class_centres.unit_rows(weight, "float32", training=True))
    assert found[0] is found[1]
    made = normalised.unit_rows(weight, "float32", len(found[2].rows))
    assert len(found[2].rows) >= 300
    assert torch.equal(found[2].rows, made.rows)


WRITES = {
    "in place": lambda weight: weight.mul_(2.0),
    "a view": lambda weight: weight[3].zero_(),
    "copied": lambda weight: weight.copy_(torch.ones_like(weight)),
    "detached": lambda weight: weight.detach().add_(1.0),
    "another optimiser": lambda weight: torch.optim.SGD([weight], lr=0.1).step(),
    "other memory": lambda weight: setattr(weight, "data", weight.data.clone()),
    "another dtype": lambda weight: setattr(weight, "data", weight.data.half()),
}


@pytest.mark.parametrize("write", WRITES)
def test_whoever_writes_the_class_centres_ends_the_unit_rows(write):
    weight = centres()
    class_centres.follow(weight)
    class_centres.unit_rows(weight, "float32", training=True)
    with_gradient(weight, 1)
    step_of(weight)
    assert class_centres.unit_rows(weight, "float32", training=True) is not None
    assert class_centres.unit_rows(weight, "bfloat16", training=False) is None
    with torch.no_grad():
        WRITES[write](weight)
    assert class_centres.unit_rows(weight, "float32", training=True) is None


def test_other_class_centres_have_none():
    weight = centres()
    class_centres.follow(weight)
    class_centres.unit_rows(weight, "float32", training=True)
    with_gradient(weight, 1)
    step_of(weight)
    for other in (centres(), weight.detach(), weight[:5]):
        assert class_centres.unit_rows(other, "float32", training=True) is None


def training(margin, optimizer_of, steps=3):
    """Losses, gradients and the last class centres; the kernels that each forward started."""
    torch.manual_seed(0)
    head = MarginHead(DIM, CLASSES, margin, backend="triton")
    embeddings, _, labels = inputs(4, CLASSES, DIM)
    x, optimizer, results = embeddings.requires_grad_(), optimizer_of(head.weight), []
    for step in range(steps):
        out = head(x, labels)
        optimizer.zero_grad()
        out.loss.backward()
        results += [out.loss.detach(), head.weight.grad.clone(), x.grad.clone()]
        optimizer.step()
        x.grad = None
        if step == 1:  # from outside: what was kept holds no more
            with torch.no_grad():
                head.weight[:7].mul_(-1.0)
    return [*results, head.weight.detach()]


@pytest.mark.parametrize(
    "margin", [CurricularFace(), without_form(MagFace())], ids=lambda margin: margin.name
)
def test_training_with_kept_unit_rows_is_training_without(margin, monkeypatch):
    """A margin in kernels, and one of one's own on the plain path; the same bits."""
    made, unit_rows = [], class_centres.unit_rows

    def noting(weight, precision, training):
        made.append(unit_rows(weight, precision, training) is None)
        return unit_rows(weight, precision, training)

    monkeypatch.setattr(class_centres, "unit_rows", noting)
    optimizer_of = lambda weight: CentreSGD([weight], weight, lr=0.1, momentum=0.9)  # noqa: E731
    kept = training(margin, optimizer_of)
    assert made == [True, False, True]
    monkeypatch.setattr(class_centres, "unit_rows", lambda weight, precision, training: None)
    again = training(margin, optimizer_of)
    assert all(map(torch.equal, kept, again))


def test_a_backward_after_the_step_is_refused():
    """The unit rows it needs are those of other class centres by then: torch sees it."""
    torch.manual_seed(0)
    head = MarginHead(DIM, CLASSES, CurricularFace(), backend="triton")
    embeddings, _, labels = inputs(2, CLASSES, DIM)
    optimizer = CentreSGD(head.parameters(), head.weight, lr=0.1)
    for _ in range(2):
        loss = head(embeddings, labels).loss
        loss.backward(retain_graph=True)
        optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_pytorch_does_not_count_can_be_told():
    weight = centres()
    optimizer = CentreSGD([weight], weight, lr=0.1)
    class_centres.unit_rows(weight, "float32", training=True)
    with_gradient(weight, 1)
    optimizer.step()
    weight.data.mul_(2.0)
    optimizer.forget()
    assert class_centres.unit_rows(weight, "float32", training=True) is None


def test_what_the_kernel_does_not_compute_is_torchs():
    ours, theirs = centres(), centres()
    optimizer = CentreSGD([ours], ours, lr=0.1, momentum=0.9)
    reference = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, maximize=True)
    optimizer.param_groups[0]["maximize"] = True
    class_centres.unit_rows(ours, "float32", training=True)
    for weight in (ours, theirs):
        with_gradient(weight, 1)
    optimizer.step()
    reference.step()
    assert torch.equal(ours, theirs)
    assert class_centres.unit_rows(ours, "float32", training=True) is None


@pytest.mark.parametrize(
    ("weight", "params", "message"),
    [
        (torch.ones(3), None, "contiguous matrix"),
        (torch.ones(3, 4).T, None, "contiguous matrix"),
        (torch.ones(3, 4), [torch.ones(2)], "among params"),
    ],
    ids=["a vector", "a view", "not there"],
)
def test_wrong_class_centres_are_refused(weight, params, message):
    with pytest.raises(ValueError, match=message):
        CentreSGD(params or [weight], weight, lr=0.1)
