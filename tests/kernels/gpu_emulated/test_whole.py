"""A whole loss on an emulated GPU: as the plain path in bfloat16, and the same bits when repeated."""

import pytest
import torch
from emulated_head import emulated
from margin_oracle import all_margins, fresh_state, inputs, matched_state
from ptx_emulator import Options

from fusedface.kernels import CosFace, SelfPaced, SelfPacedLinear, functional, margin_loss
from fusedface.kernels.gpu import (
    centre_step,
    choice,
    class_centres,
    forward,
    launch,
    layout,
    rows,
    slots,
)

ROWS, CLASSES = 19, 70


def batch(seed, dim, dtype, rows=ROWS):
    embeddings, weight, labels = inputs(rows, CLASSES, dim)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    return embeddings[order].to(dtype), weight.roll(seed, 0), labels[order]


def step(margin, state, embeddings, weight, labels, **options):
    """All that a training step gives, of the tensors as they lie in memory."""
    x, w = (tensor.detach().requires_grad_() for tensor in (embeddings, weight))
    out = margin_loss(
        x, w, labels, margin, state=state, backend="triton", precision="bfloat16", training=True,
        **options,
    )  # fmt: skip
    out.loss.backward()
    numbers = [out.loss, out.per_sample_loss, out.target_cosine, out.max_negative_cosine]
    numbers += [out.hard_negatives, *out.modulation, *state.values(), x.grad, w.grad.to_dense()]
    return [number.detach().clone().nan_to_num(7.0) for number in numbers]


@pytest.mark.parametrize("name", ["mvarc easy t=1.4", "adaface"])
def test_as_the_plain_path_in_bfloat16(name, monkeypatch):
    """Losses, gradients, statistics and state; gpu_interpreted/test_whole.py has all in float32."""
    check_as_the_plain_path(name, monkeypatch)


@pytest.mark.parametrize("schedule", ["serial", "reversed"])
@pytest.mark.parametrize("kind", [SelfPaced, SelfPacedLinear], ids=lambda kind: kind.name)
def test_weights_of_samples_as_the_plain_path(kind, schedule, monkeypatch):
    """Also as a first batch sets the bound and a second one raises it, in any order of the warps."""
    check_as_the_plain_path(
        "arcface", monkeypatch, kind(first_share=0.3, growth=1.5), rows=100, schedule=schedule
    )


def test_a_margin_of_ones_own_does_not_repeat_the_launches_of_another():
    """It gives the kernels the same numbers, but has a state of its own."""

    class Own(CosFace):
        name = "own"

        def initial_state(self):
            return {"seen": 0.5}

        def form(self):
            return super().form()

    embeddings, weight, labels = batch(0, 32, torch.float32)
    results = []
    with emulated(80, Options()):
        for margin in (CosFace(), CosFace(), Own(), Own()):  # noted, and then repeated
            state = {"seen": torch.tensor(0.5)} if isinstance(margin, Own) else {}
            results.append(step(margin, state, embeddings, weight, labels)[:3])
            assert all(value == 0.5 for value in state.values())
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])


def test_a_sample_of_the_classes_as_the_plain_path(monkeypatch):
    """Keys are drawn by a kernel, which the plain path does without."""
    check_as_the_plain_path("curricularface", monkeypatch, sample_rate=0.5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", all_margins())
def test_every_margin_as_the_plain_path_in_bfloat16(name, monkeypatch):
    check_as_the_plain_path(name, monkeypatch)


def check_as_the_plain_path(
    name, monkeypatch, weighting=None, rows=ROWS, schedule="lockstep", **options
):
    margin = all_margins()[name]
    embeddings, weight, labels = batch(0, 32, torch.bfloat16, rows)
    weight, labels[::5] = weight.bfloat16(), -1
    results = []
    for _ in range(2):
        state, bound = matched_state(margin, embeddings), torch.tensor(0.0)
        state |= {} if weighting is None else {"loss_bound": bound}
        options["weighting"] = weighting
        torch.manual_seed(0)
        with emulated(80, Options(schedule, check_races=True)):
            results.append([
                number for _ in range(1 if weighting is None else 2)
                for number in step(margin, state, embeddings, weight, labels, **options)
            ])  # fmt: skip
        monkeypatch.setattr(functional, "_kept_call", lambda *args: None)
    # Gradients are rounded to bfloat16 at the end.
    torch.testing.assert_close(*results, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dim", "dtype", "is_narrow"),
    [
        ("curricularface", 32, torch.float32, True),
        ("adaface", 20, torch.bfloat16, True),
        ("arcface", 32, torch.float32, False),
    ],
)
def test_repeated_launches_compute_what_the_first_ones_did(
    name, dim, dtype, is_narrow, monkeypatch
):
    monkeypatch.setattr(layout, "is_narrow", lambda dim, precision: is_narrow)
    margin, started, start = all_margins()[name], [], launch.start

    def noting(kernel, *args, **options):
        started.append(kernel.__name__)
        return start(kernel, *args, **options)

    monkeypatch.setattr(launch, "start", noting)
    batches = [batch(seed, dim, dtype) for seed in range(3)]
    with emulated(80):
        state, repeated, counts = fresh_state(margin), [], []
        for tensors in (batches[0], *batches):
            started.clear()
            repeated.append(step(margin, state, *tensors))
            counts.append(len(started))
        assert counts[1] > 0
        assert counts[2:] == [0, 0]  # nothing was worked out again
        state, expected = fresh_state(margin), []
        for tensors in (batches[0], *batches):
            choice.decided.replays.clear()
            expected.append(step(margin, state, *tensors))
            assert any(choice.decided.replays.values())
    for got, wanted in zip(repeated, expected, strict=True):
        assert all(map(torch.equal, got, wanted))
    assert not torch.equal(repeated[2][1], repeated[3][1])


def test_what_differs_is_worked_out():
    """Another batch size, memory that is not aligned, another option."""
    margin = all_margins()["arcface"]
    embeddings, weight, labels = batch(0, 32, torch.float32)
    shifted = torch.cat([torch.zeros(1), weight.flatten()])[1:].view_as(weight)
    assert shifted.data_ptr() % 16
    variants = [
        (embeddings, weight, labels), (embeddings[:7], weight, labels[:7]), (embeddings, shifted, labels),
        (embeddings.T.contiguous().T, weight, labels),
    ]  # fmt: skip
    with emulated(80):
        first = [step(margin, {}, *tensors) for tensors in variants]
        again = [step(margin, {}, *tensors) for tensors in variants]
        repeated = [step(margin, {}, *tensors) for tensors in variants]
    for results in zip(first, again, repeated, strict=True):
        assert all(map(torch.equal, results[0], results[1]))
        assert all(map(torch.equal, results[0], results[2]))
    for other in (first[2], first[3]):  # read in other pieces, added up in another order
        torch.testing.assert_close(other, first[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("capability", "dim", "precision"), [(80, 20, "tf32"), (90, 512, "bfloat16")]
)
def test_a_step_of_class_centres(capability, dim, precision):
    """Torch's SGD to rounding, and unit rows to the bit that the next forward would make."""
    generator = torch.Generator().manual_seed(0)
    ours, grad = (torch.randn(70, dim, generator=generator) for _ in range(2))
    theirs, momentum = ours.clone(), torch.zeros_like(ours)
    theirs.grad = grad
    rates = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    reference = torch.optim.SGD([theirs], **rates)
    class_centres.follow(ours)
    class_centres.unit_rows(ours, precision, training=True)
    with emulated(capability, Options(check_races=True)):
        for _ in range(2):
            centre_step.step(ours, grad, momentum, centre_step.Rates(**rates), None, None)
            reference.step()
        kept = class_centres.unit_rows(ours, precision, training=False)
        made = forward.unit_rows(ours, precision, len(kept.rows))
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(momentum, reference.state[theirs]["momentum_buffer"])
    assert torch.equal(kept.rows, made.rows)
    assert torch.equal(kept.inverse, made.inverse)


@pytest.mark.parametrize("dim", [16, 20, 32])
def test_all_columns_of_a_row_are_divided_by_the_length_that_is_stored(dim):
    """To the bit. With few columns a row's lanes hold a number each, and all sum the squares themselves."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(128, dim, generator=generator) for _ in range(2))
    labels, padded = torch.arange(128), layout.padded_dim(dim, "float32")
    unit, inverse = torch.empty(128, padded), torch.empty(128)
    known, scratch = torch.empty_like(labels), torch.empty(slots.NUM_SCRATCH, 128)
    flags = torch.empty(layout.flags_shape(128, 128), dtype=torch.int8)
    with emulated(80, Options(check_races=True)):
        launch.start(
            rows.rows_kernel, 128 // 4 + forward.num_flag_programs(flags),
            x, w, labels, unit, inverse, known, scratch, flags,
            128, 128, 128, flags.shape[1], -1, dim, 1, *x.stride(), *w.stride(),
            DIM=padded, PRECISION="ieee", BLOCK_D=padded, BLOCK_N=4, BLOCK_F=forward.FLAGS_BLOCK,
        )  # fmt: skip
    assert torch.equal(unit[:, :dim], x * inverse[:, None])
    torch.testing.assert_close(unit[:, :dim], torch.nn.functional.normalize(x))
