"""Forward and backward recorded once and repeated on what lies there by then, as by a CUDA graph."""

import pytest
import torch
from emulated_head import emulated
from margin_oracle import all_margins, inputs, matched_state, without_form
from recorded_work import recorded

from fusedface.kernels import HeadOptions, SelfPaced, checks, margin_loss

ROWS, CLASSES = 19, 70
MARGINS = all_margins()
MARGINS["magface of one's own"] = without_form(MARGINS["magface"])
OPTIONS = [
    {"weighting": SelfPaced()},
    {"reduction": "none", "focal_gamma": 1.0, "ignore_index": 3},
    {"keep_exponentials": True},
]
SAMPLE = ("curricularface", "adaface", "ldam", "magface of one's own")
CASES = [
    pytest.param(name, 32, {}, marks=[] if name in SAMPLE else pytest.mark.exhaustive)
    for name in MARGINS
]
CASES += [("curricularface", 32, options) for options in OPTIONS]
CASES += [pytest.param("curricularface", 260, {}, marks=pytest.mark.slow)]


def batch(margin, seed, dim, options):
    """Embeddings, class centres, labels and the numbers of the state."""
    embeddings, weight, labels = inputs(ROWS, CLASSES, dim, seed=seed)
    numbers = HeadOptions(margin=margin, **options).initial_state()
    state = {name: torch.tensor(value) for name, value in numbers.items()}
    state |= matched_state(margin, embeddings)
    return embeddings, weight, labels, {name: v * (1 + seed) for name, v in state.items()}


@pytest.mark.parametrize(("name", "dim", "options"), CASES, ids=str)
def test_a_replay_is_the_step_on_what_lies_there(name, dim, options, monkeypatch):
    """To the bit, except for statistics, which PyTorch's operators compute where someone watches."""
    monkeypatch.setattr(checks, "can_be_read", lambda device: False)
    margin = MARGINS[name]
    x, weight, labels, state = batch(margin, 0, dim, options)
    x.requires_grad_()
    weight.requires_grad_()

    def step():
        x.grad = weight.grad = None
        out = margin_loss(
            x, weight, labels, margin, state=state, backend="triton", precision="bfloat16",
            training=True, **options,
        )  # fmt: skip
        out.loss.mean().backward()
        exact = [out.loss, out.per_sample_loss, out.target_cosine, x.grad, weight.grad]
        return [*exact, *state.values()], [out.max_negative_cosine, *out.modulation]

    @torch.no_grad()
    def fill(seed):
        others = batch(margin, seed, dim, options)
        for there, new in zip((x, weight, labels), others, strict=False):
            there.copy_(new)
        for key, new in others[3].items():
            state[key].copy_(new)

    def copied(results):
        return [[tensor.detach().clone() for tensor in part] for part in results]

    with emulated(80):
        for _ in range(2):  # noted, and then repeated by replay.py
            step()
        with recorded() as repeat:
            results = step()
        fill(1)
        repeat()
        exact, near = copied(results)
        fill(1)
        expected = copied(step())
    assert all(map(torch.equal, exact, expected[0]))
    torch.testing.assert_close(near, expected[1], equal_nan=True)
