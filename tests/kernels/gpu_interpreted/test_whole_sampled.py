"""A sample of the classes by the whole loss, against the plain path in float64."""

import pytest
import torch
from margin_oracle import all_margins, inputs, matched_state, relative

from fusedface.kernels import HeadOptions, functional, margin_loss, sampling
from fusedface.kernels.gpu import keys
from fusedface.kernels.interface.random_bits import random_bits

MARGINS = all_margins()
FLOAT32 = 3e-5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("curricularface", {}), ("ldam", {"sample_correction": False}), ("magface", {"focal_gamma": 2.0}),
        ("adaface", {"ignore_index": 7}),
    ],
    ids=str,
)  # fmt: skip
def test_a_sample_of_the_classes_against_float64(name, options):
    """Losses, sparse gradients, statistics and state, of the sample that the plain path draws too."""
    margin, (embeddings, weight, labels) = MARGINS[name], inputs(19, 150, 16)
    labels[::5] = options.get("ignore_index", -1)

    def step(backend, dtype):
        torch.manual_seed(3)
        x, w = (
            tensor.to(dtype).requires_grad_() for tensor in (embeddings.clone(), weight.clone())
        )
        state = matched_state(margin, embeddings, dtype)
        out = margin_loss(
            x, w, labels, margin, state=state, training=True, backend=backend, sample_rate=0.3,
            precision="float32", **options,
        )  # fmt: skip
        (2.0 * out.loss).backward()
        return out, x.grad, w.grad.coalesce(), state

    (out, dx, dw, state), (truth, dx_truth, dw_truth, moved) = (
        step("triton", torch.float32), step("reference", torch.float64)
    )  # fmt: skip
    assert torch.equal(dw.indices(), dw_truth.indices())
    assert dw.shape == weight.shape
    for actual, expected in (
        (out.loss, truth.loss), (out.per_sample_loss, truth.per_sample_loss), (dx, dx_truth),
        (dw.values(), dw_truth.values()),
        (out.max_negative_cosine, truth.max_negative_cosine),
    ):  # fmt: skip
        assert relative(actual.detach(), expected.detach()) < FLOAT32
    assert torch.equal(out.correct, truth.correct)
    assert torch.equal(out.hard_negatives, truth.hard_negatives)
    assert torch.equal(out.target_cosine.isnan(), truth.target_cosine.isnan())
    for key, value in state.items():
        torch.testing.assert_close(value.double(), moved[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("num", "first"), [(1, 0), (1030, 0), (5, 2**40)])
def test_keys_of_classes_are_those_of_torch(num, first):
    """To the bit, so that a run goes on with the classes that any backend would have drawn."""
    seed = torch.tensor([0, 2**62 + 12_345])[1]
    expected = random_bits(seed, torch.arange(num) + first) & sampling.LARGEST
    assert torch.equal(keys.keys(seed, num, first), expected)


@pytest.mark.parametrize("wrong", [150, -7, 2**40])
def test_a_wrong_label_of_a_sample_is_told(wrong):
    """On a GPU an assertion reads it, since the host does not read labels."""
    embeddings, weight, labels = inputs(19, 150, 16)
    labels[4], labels[5] = wrong, 3
    given, seen = sampling.Sample(0.3, True, torch.tensor(3), 0), []

    def whole(embeddings, weight, labels, state, class_margins, call):
        seen.append(functional._backend("triton").whole(
            embeddings, weight, labels, state, class_margins, call
        ))  # fmt: skip
        return seen[-1]

    call = HeadOptions(margin=MARGINS["arcface"], ignore_index=3).call(True, "float32")
    for right in (labels, labels.clone().index_fill_(0, torch.tensor(4), 149)):
        sampling._whole_loss(given, whole, None, embeddings, weight, right, [], None, call)
    assert [bool(out.fits) for out in seen] == [False, True]
    assert seen[1].per_sample[5] == 0.0  # ignored
