"""The head on an emulated GPU (`ptx_emulator`): its kernels as compiled, on tensors of the CPU.

Where the project's own ways of choosing kernels are changed for this, they are changed here.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import margin_oracle
import pytest
import torch
import torch.nn.functional as F
from ptx_emulator import Options, Run, emulated_gpu
from ptx_emulator.driver import SHARED_MEMORY
from ptx_emulator.profiles import growth, per_item, profile

from fusedface.kernels.gpu import arguments, choice, launch
from fusedface.kernels.gpu.tiles import Limits

CAPABILITIES = (80, 90)
BUDGET = 2.0  # times the error that PyTorch makes in the same precision
UNIT_ROUNDOFF = 2.0**-24  # of float32
NEAR_THRESHOLD = 1e-4  # a cosine; about the error of one with bfloat16 operands


@contextlib.contextmanager
def emulated(
    capability: int, options: Options | None = None, edit: Callable[[str], str] | None = None
) -> Iterator[list[Run]]:
    """CPU tensors run the kernels as on that GPU; gives the list of what was started.

    New memory is filled with NaN, so that what a kernel forgets to write shows.
    """
    limits = Limits(f"sm_{capability}", SHARED_MEMORY[capability])
    deterministic = torch.are_deterministic_algorithms_enabled()
    with (
        pytest.MonkeyPatch.context() as patch,
        emulated_gpu(capability).active(options, edit) as runs,
    ):
        patch.setattr(arguments, "INTERPRETED", True)  # which welcomes CPU tensors
        patch.setattr(launch, "takes_addresses", False)  # whose bounds nobody knows
        patch.setattr(choice, "limits", lambda device: limits)
        patch.setattr(choice, "stored", functools.cache(lambda name: {}))  # nothing was measured
        choice.forget()
        torch.use_deterministic_algorithms(True)
        try:
            yield runs
        finally:
            torch.use_deterministic_algorithms(deterministic)
            choice.forget()


def each_tile() -> Iterator[int]:
    """Within `emulated`: the n-th shipped tile shape of each kernel, for every n that there is."""
    shipped, longest = choice.ranked, 1

    def ranked(case, device):
        nonlocal longest
        tiles = shipped(case, device)
        longest = max(longest, len(tiles))
        return (tiles[min(n, len(tiles) - 1)],)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "ranked", ranked)
        for n in itertools.count():
            choice.decided.tiles.clear()
            yield n
            if n + 1 >= longest:
                return


def inputs(margin, num_rows, num_classes, dim, *, state="mixed"):
    """Those of the oracle, but for rows with a negative so near the threshold that rounding decides.

    With `state` "hard" every negative is hard (at m = 0.5), as early in training, with "few" next to none.
    """
    pool, kept = num_rows, []
    while len(kept) < num_rows:
        pool *= 2
        embeddings, weight, labels = margin_oracle.inputs(pool, num_classes, dim)
        if state != "mixed":
            embeddings = pulled(weight[labels], state)
        kept = clear_rows(margin, embeddings, weight, labels)
    # The pull of a row goes by its number: rows are taken so that all four occur alike.
    by_pull = [kept[kept % 4 == pull] for pull in range(4)]
    ranks = torch.cat([torch.arange(len(rows)) * 4 + pull for pull, rows in enumerate(by_pull)])
    rows = torch.cat(by_pull)[ranks.argsort()[:num_rows]]
    return embeddings[rows], weight, labels[rows]


def pulled(centres, state):
    """Embeddings opposite to their class centres ("hard"), or near them ("few")."""
    pull = -3.0
    if state == "few":  # the threshold is three deviations of the cosine of two random directions
        pull = 1 / math.tan(math.acos(3 / math.sqrt(centres.shape[1])) - 0.5)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(centres.shape, generator=generator) + pull * centres


def clear_rows(margin, embeddings, weight, labels):
    """Numbers of the rows of which no negative lies within `NEAR_THRESHOLD` of the threshold."""
    cos = margin_oracle.cosines(embeddings.double(), weight.double())
    threshold = margin_oracle.threshold(margin, cos.gather(1, labels[:, None]))
    if threshold is None:
        return torch.arange(len(labels))
    near = (cos - threshold).abs() < NEAR_THRESHOLD
    near.scatter_(1, labels[:, None], False)
    return (~near.any(dim=1)).nonzero()[:, 0]


def step(problem, precision, **options):
    """Loss of each sample and both gradients of the kernels that run now; `problem` as in the oracle."""
    out, *gradients = margin_oracle.run(*problem, "triton", precision=precision, **options)
    return out.per_sample_loss.detach(), *gradients


class _Tf32Product(torch.autograd.Function):
    """x wᵀ as tensor cores take it: operands rounded to tf32, forward and backward, sums in float32."""

    @staticmethod
    def rounded(values):
        bits = values.float().contiguous().view(torch.int32)
        return ((bits + 0x1000) & -0x2000).view(torch.float32)

    @staticmethod
    def forward(ctx, x, w):
        x, w = _Tf32Product.rounded(x), _Tf32Product.rounded(w)
        ctx.save_for_backward(x, w)
        return (x @ w.T).double()

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad = _Tf32Product.rounded(grad)
        return (grad @ w).double(), (grad.T @ x).double()


def torchs_own(problem, precision, **options):
    """Loss and gradients from PyTorch's product of unit rows in `precision`, all else in float64."""

    def cosines(x, w):
        x, w = F.normalize(x, dim=1), F.normalize(w, dim=1)
        if precision == "tf32":  # which no CPU has
            return _Tf32Product.apply(x, w)
        dtype = getattr(torch, precision)
        return (x.to(dtype) @ w.to(dtype).T).double()

    return margin_oracle.loss_and_gradients(*problem, of_cosines=cosines, **options)


def rounding(margin, state):
    """The error that float32 always allows, whatever PyTorch's is, which depends on the processor.

    The log-sum-exp of a row is a float32 of the size of the largest negative logit. The kernels round it,
    and then its difference to the logarithm of the factor, each by up to half a unit in the last place.
    That is the relative error of all probabilities of the row. One such rounding is allowed, at N(1).
    """
    cos = torch.ones(1, 1, dtype=torch.float64)
    numbers = {name: float(value) for name, value in state.items()}
    largest = margin_oracle.negative_logits(margin, cos, -cos, numbers).item()
    return 1.05 * UNIT_ROUNDOFF * margin.s * largest


def references(problem, precision, **options):
    """The truth, what PyTorch makes of it in that precision, and the error that is always allowed."""
    margin, *_, state = problem
    truth = margin_oracle.loss_and_gradients(*problem, **options)
    return truth, torchs_own(problem, precision, **options), rounding(margin, state)


def hold(results, truth, torchs, rounding):
    """Errors of loss and gradients within the budget; prints them."""
    wrong = []
    names = ("loss", "embeddings", "weight")
    for name, actual, expected, other in zip(names, results, truth, torchs, strict=True):
        error, allowed = (margin_oracle.relative(each, expected) for each in (actual, other))
        print(f"{name} {error:.1e} ({error / allowed:.2f} x PyTorch's)", end="  ")
        if not error <= max(BUDGET * allowed, rounding):
            wrong.append(f"{name}: {error:.2e}, PyTorch {allowed:.2e}")
    print()
    assert not wrong, wrong


@functools.cache
def cost_of_a_logit(
    capability, dim, precision="bfloat16", name="curricularface", num_rows=128, num_classes=512
):
    """Executed instructions of threads by class and in "total", for each kernel and logit.

    Classes are doubled, and what that adds is shared by the further logits: loops, without what surrounds
    them. Margins are named as in `margin_oracle.all_margins`.
    """
    margin, found = margin_oracle.all_margins()[name], []
    for classes in (num_classes, 2 * num_classes):
        problem = margin_oracle.inputs(num_rows, classes, dim)
        state = margin_oracle.matched_state(margin, problem[0])
        with emulated(capability) as runs:
            step((margin, *problem, state), precision)
        found.append(profile(runs))
    logits = num_rows * num_classes
    return {kernel: per_item(counter, logits) for kernel, counter in growth(*found).items()}
