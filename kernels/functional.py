"""margin_loss: any margin on any backend, from embeddings and class centres to the loss.

A backend computes the whole loss (interface/whole.py), or cosines and log-sum-exp only. The rest is then
computed by plain_loss.py.
"""

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fusedface.kernels import (
    checks,
    chunked,
    chunked_loss,
    output,
    plain_loss,
    reference,
    sampling,
    sharded,
)
from fusedface.kernels.dispatch import pick_backend, pick_precision
from fusedface.kernels.interface.primitive import Backend, target_cosine
from fusedface.kernels.interface.update import CentreUpdate
from fusedface.kernels.interface.whole import Call
from fusedface.kernels.margins import Margin, State, defines_form
from fusedface.kernels.options import HeadOptions, head_options
from fusedface.kernels.output import MarginOutput
from fusedface.kernels.weightings import weighting_form


def margin_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: Margin | HeadOptions,
    *,
    state: State | None = None,
    training: bool = False,
    process_group: sharded.Group | None = None,
    update: CentreUpdate | None = None,
    **options: Any,
) -> MarginOutput:
    """Margin-softmax cross-entropy between normalised embeddings and class centres.

    Args:
        embeddings: (B, D), float16, bfloat16, float32 or float64; need not be normalised.
        weight: class centres (C, D), floating point, C >= 2; need not be normalised.
        labels: (B,) integers in [0, C), or `ignore_index`.
        margin: one of `MARGINS`, such as `CurricularFace(m=0.5, s=64.0)`, or `HeadOptions` with one.
        state: running numbers by name, 0-d, float32 or float64; by default `HeadOptions.initial_state()`.
        training: update `state` with this batch, in place, before it is used. The second forward that
            gradient checkpointing runs, inside the backward, uses `state` as it is. With `sample_rate`
            below 1, draw the classes; the gradient of `weight` is then sparse if `weight` is a leaf.
        process_group: N processes that share the class centres; "world" for all. `weight` (C_r, D) holds
            this rank's centres. `embeddings` and `labels` (of all C classes) are its rows of the batch,
            as many as on every other rank. The output is that of the whole batch, in the order of the
            ranks. The gradient of `weight` is that of `loss`; the gradient of `embeddings` is N times
            that of `loss`, because DistributedDataParallel averages over the ranks.
        update: a step of SGD that the backward makes on `weight`, in place; `weight` gets no gradient. With
            `sample_rate` below 1, only the drawn classes make it.
        options: the fields of `HeadOptions` by name, such as `backend="chunked"`.

    Returns:
        The loss and statistics of the batch; see `MarginOutput` for shapes and dtypes.

    Raises:
        TypeError: an input is not a tensor or has the wrong dtype, or an option is of the wrong type.
        ValueError: shapes or devices disagree, a label is out of range, or an option is unknown.
        NonFiniteInputError: a ValueError; an input is not finite. See `checks.check_values` for GPUs.
    """
    chosen = head_options(margin, options)
    checks.check_tensors(embeddings, weight, labels, sharded=process_group is not None)
    labels = labels.long()  # torch would cut `ignore_index` and C to the size of smaller integers
    initial, num_classes, first_class = chosen.initial_state(), weight.shape[0], 0
    state = _state_for(initial, state, embeddings)
    precision = pick_precision(chosen.precision, embeddings.device)  # before autocast is off
    is_sampled = training and chosen.sample_rate < 1.0
    training = training and not _is_recomputed()
    run = _backend(pick_backend(chosen.backend, embeddings, weight, update is not None))
    ranks = None
    if process_group is not None:
        ranks = sharded.meet(embeddings, weight, state, training, process_group)
        embeddings, labels = ranks.gather(embeddings, labels)
        num_classes, first_class = ranks.num_classes, ranks.first_class
        update = None if update is None else replace(update, first_class=first_class)
    if is_sampled:
        run = sampling.over(
            run, chosen.sample_rate, chosen.sample_correction, labels, num_classes, first_class
        )
    if ranks is not None:
        run = ranks.over(run)
    if run.whole is not None and update is None:
        states = {name: state[name] for name in initial}
        call = _call(chosen, states, embeddings.device, weight.shape[0], training, precision)
        if call is not None and run.whole_serves(embeddings, weight, call):
            return _whole_loss(run, embeddings, weight, labels, chosen, state, states, call)
    checks.check_values(embeddings, labels, state, num_classes, chosen.ignore_index)
    with torch.autocast(embeddings.device.type, enabled=False):
        return plain_loss.margin_loss(
            embeddings, weight, labels, chosen, state, training, precision, run, update
        )


@functools.cache
def _backend(name: str) -> Backend:
    if name == "triton":
        from fusedface.kernels.gpu import keys, primitive, whole

        return Backend(
            primitive.cosine_lse, primitive.target_cosine, whole.margin_loss, keys=keys.keys
        )
    if name == "chunked":
        whole = chunked_loss.margin_loss
        return Backend(chunked.cosine_lse, target_cosine, whole, chunked_loss.serves, True)
    return Backend(reference.cosine_lse, target_cosine)


def _call(
    options: HeadOptions, states: State, device: torch.device, num_classes: int, training: bool,
    precision: str,
) -> Call | None:  # fmt: skip
    """The numbers of a whole loss; None if these options or this state need the plain path."""
    # A margin without a form may have no hash.
    if not defines_form(options.margin) or weighting_form(options.weighting) is None:
        return None
    class_margins = options.margin.class_margins(device)
    if class_margins is not None and len(class_margins) < num_classes:
        return None
    for value in states.values():
        if value.dtype != torch.float32 or value.dim() or value.device != device:
            return None
    if torch.compiler.is_compiling():
        return options.call(training, precision)
    try:
        return _kept_call(options, training, precision)  # costs less than making it
    except TypeError:  # no hash
        return options.call(training, precision)


_kept_call = functools.lru_cache(maxsize=256)(HeadOptions.call)


def _whole_loss(
    run: Backend,
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    options: HeadOptions,
    state: State,
    used: State,
    call: Call,
) -> MarginOutput:
    """`plain_loss.margin_loss` by a backend that has all of it in its kernels."""
    whole = run.whole
    assert whole is not None
    per_sample, names, states = options.reduction == "none", tuple(used), [*used.values()]
    class_margins = options.margin.class_margins(embeddings.device)
    if run.whole_checks:
        checks.check_state_values(state)
        out = whole(embeddings, weight, labels, states, class_margins, call)
        return output.of_whole(out, names, per_sample, at_once=False)
    is_read = checks.can_be_read(embeddings.device)
    if is_read:
        checks.check_values(embeddings, labels, state, len(weight), options.ignore_index)
    out = whole(embeddings, weight, labels, states, class_margins, call)
    if is_read:
        cos_y = out.target_cosine.masked_fill(labels == options.ignore_index, 0.0)
        checks.check_centres(cos_y, out.per_sample, weight)
    else:
        # Without a message torch.compile drops it.
        torch._assert_async(out.fits, checks.WRONG_LABELS)  # pyright: ignore[reportPrivateImportUsage]
    return output.of_whole(out, names, per_sample, _is_recorded(embeddings))


def _is_recorded(tensor: Tensor) -> bool:
    """Whether what is computed now becomes part of a compiled graph or a CUDA graph."""
    return torch.compiler.is_compiling() or (
        tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    )


def _is_recomputed() -> bool:
    """Whether this forward runs inside a backward: the same batch a second time."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _state_for(initial: dict[str, float], state: State | None, embeddings: Tensor) -> State:
    if state is None:
        return {
            name: torch.full((), value, device=embeddings.device) for name, value in initial.items()
        }
    checks.check_state(initial.keys(), state)
    return state
