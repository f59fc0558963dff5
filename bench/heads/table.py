"""The list of all heads that are compared."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fusedface.bench.heads import auto_chunked, packages, published
from fusedface.bench.heads.loss import BASE_PRECISIONS, Loss, M, S
from fusedface.kernels import ArcFace, CurricularFace, Margin, NormFace
from fusedface.kernels.options import Precision, TargetGradient
from fusedface.kernels.products import bfloat16_is_fast

CPU_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
GPU_PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16", "float16")


@dataclass(frozen=True)
class Head:
    """One way to compute a loss.

    `margin` and `target_gradient` define its loss and gradient, so that both can be checked against the
    reference. `precision` is the dtype of the operands of its products. `missing` says why it cannot run
    here; empty if it can. `in_graph`: its time is that of a CUDA graph's replay. `keeps_exponentials`:
    as in `HeadOptions`.
    """

    name: str
    margin: Margin
    make: Callable[[], Loss]
    precision: Precision = "float32"
    target_gradient: TargetGradient = "exact"
    missing: str = ""
    in_graph: bool = False
    keeps_exponentials: bool = False

    @property
    def is_fused(self) -> bool:
        """Whether it is our head."""
        return self.name.startswith("fused ")

    @property
    def bases(self) -> tuple[str, ...]:
        """Names of the heads that its times are divided by: our heads with the same loss."""
        return tuple(f"fused {self.margin.name} {precision}" for precision in BASE_PRECISIONS)


def heads(t: float, device: torch.device) -> list[Head]:
    """All heads for a device, CurricularFace with this t.

    Late in training (t > 0) the loss without a margin is so small that only rounding is left, so NormFace
    is left out then.
    """
    on_device = torch.tensor(t, device=device)
    plain = _normface(on_device) if t == 0.0 else ()
    everything = [*_curricularface(on_device), *_arcface(on_device), *plain]
    return [_or_why_not(head, device) for head in everything]


def precisions(device: torch.device) -> tuple[Precision, ...]:
    """Precisions that a device has arithmetic for.

    On a CPU without that of bfloat16 torch's emulation takes tens of times as long, and our head
    computes in float32.
    """
    if device.type == "cuda":
        return GPU_PRECISIONS
    return CPU_PRECISIONS if bfloat16_is_fast() else ("float32",)


def _or_why_not(head: Head, device: torch.device) -> Head:
    if head.missing or head.precision in precisions(device):
        return head
    return replace(head, missing=f"this processor has no {head.precision} arithmetic")


def _curricularface(t: Tensor) -> list[Head]:
    margin = CurricularFace(m=M, s=S)

    def eager() -> Loss:
        return published.eager_curricularface(t)

    return [
        *_fused(margin, t),
        Head("official curricularface", margin, lambda: published.official_curricularface(t)),
        Head("eager curricularface", margin, eager),
        _in_bfloat16("eager curricularface", margin, eager),
        Head("compiled eager curricularface", margin, lambda: _compiled(eager())),
        _in_bfloat16("compiled eager curricularface", margin, eager, _compiled),
    ]


def _arcface(t: Tensor) -> list[Head]:
    margin = ArcFace(m=M, s=S)
    without = packages.missing("pytorch_metric_learning", False, t.device)
    name = "partial fc arcface"
    found = [
        *_fused(margin, t),
        Head("eager arcface", margin, lambda: published.eager_arcface),
        Head(name, margin, lambda: published.partial_fc_arcface, target_gradient="straight_through"),
        Head(
            "pytorch-metric-learning arcface", margin, packages.metric_learning_arcface,
            missing=without,
        ),
    ]  # fmt: skip
    found += _auto_chunked(margin)
    if t.device.type == "cuda":
        found.append(
            _in_bfloat16(
                name,
                margin,
                lambda: published.partial_fc_arcface,
                target_gradient="straight_through",
            )
        )
    return found


def _normface(t: Tensor) -> list[Head]:
    margin, device = NormFace(s=S), t.device
    dtypes = ("float32", "bfloat16") if device.type == "cuda" else ("float32",)
    functions = (
        ("torch linear_cross_entropy", packages.torch_normface, packages.missing_in_torch()),
        ("liger", packages.liger_normface, packages.missing("liger_kernel", True, device)),
        (
            "cut-cross-entropy",
            packages.cut_cross_entropy_normface,
            packages.missing("cut_cross_entropy", True, device),
        ),
    )
    return [
        *_fused(margin, t),
        Head("eager normface", margin, lambda: published.eager_normface),
        *_for_hopper(margin, device),
        *(
            Head(
                f"{name} normface{'' if dtype == 'float32' else ' ' + dtype}",
                margin,
                lambda make=make, dtype=dtype: make(getattr(torch, dtype)),
                precision=dtype,
                missing=missing,
            )
            for name, make, missing in functions
            for dtype in dtypes
        ),
    ]


def _for_hopper(margin: Margin, device: torch.device) -> list[Head]:
    """Kernels for Hopper and later, on GPUs only; in bfloat16."""
    if device.type != "cuda":
        return []
    functions = (
        ("liger hopper", packages.liger_hopper_normface, packages.missing_liger_hopper(device)),
        ("quack", packages.quack_normface, packages.missing_quack(device)),
    )
    return [
        Head(
            f"{name} normface bfloat16",
            margin,
            lambda make=make: make(torch.bfloat16),
            precision="bfloat16",
            missing=missing,
        )
        for name, make, missing in functions
    ]


def _auto_chunked(margin: Margin) -> list[Head]:
    """ArcFace under Inductor's auto-chunker, in float32 and with bfloat16 products."""
    missing, name, loss = (
        auto_chunked.missing_in_torch(),
        "auto-chunked arcface",
        auto_chunked.arcface,
    )

    def in_bfloat16() -> Loss:
        return auto_chunked.auto_chunked(published.in_autocast(loss, torch.bfloat16))

    return [
        Head(name, margin, lambda: auto_chunked.auto_chunked(loss), missing=missing),
        Head(f"{name} bfloat16", margin, in_bfloat16, precision="bfloat16", missing=missing),
    ]


def _fused(margin: Margin, t: Tensor) -> list[Head]:
    """Our head in every precision of the device; CurricularFace also in a CUDA graph, and with E kept."""
    on_gpu = t.device.type == "cuda"
    ours = [
        Head(
            f"fused {margin.name} {precision}",
            margin,
            lambda precision=precision: published.fused(margin, precision, t),
            precision=precision,
        )
        for precision in (GPU_PRECISIONS if on_gpu else CPU_PRECISIONS)
    ]
    if on_gpu and isinstance(margin, CurricularFace):
        ours += [
            Head(
                f"fused {margin.name} bfloat16, CUDA graph",
                margin,
                lambda: published.fused(margin, "bfloat16", t),
                precision="bfloat16",
                in_graph=True,
            ),
            Head(
                f"fused {margin.name} bfloat16, exponentials kept",
                margin,
                lambda: published.fused(margin, "bfloat16", t, keep_exponentials=True),
                precision="bfloat16",
                keeps_exponentials=True,
            ),
        ]
    return ours


def _in_bfloat16(
    name: str,
    margin: Margin,
    make: Callable[[], Loss],
    around: Callable[[Loss], Loss] = lambda loss: loss,
    target_gradient: TargetGradient = "exact",
) -> Head:
    return Head(
        f"{name} bfloat16",
        margin,
        lambda: around(published.in_autocast(make(), torch.bfloat16)),
        precision="bfloat16",
        target_gradient=target_gradient,
    )


def _compiled(loss: Loss) -> Loss:
    return torch.compile(loss, dynamic=False)
