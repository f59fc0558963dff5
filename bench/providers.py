"""All ways to compute a loss that are held against each other, as one list."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.bench import packages, peers
from fusedface.bench.case import Case
from fusedface.bench.peers import Loss, M, S
from fusedface.kernels import ArcFace, CurricularFace, Margin, NormFace
from fusedface.kernels.checks import Precision, TargetGradient

CPU_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
GPU_PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16", "float16")
BASE_PRECISIONS: tuple[Precision, ...] = (
    "float32",
    "bfloat16",
)  # of the heads that ratios are against


class Tolerance(NamedTuple):
    """Largest relative errors of the mean loss and of the gradients' norms."""

    loss: float
    gradient: float


# A cosine in bfloat16 is off by up to 1/512, a logit of scale 64 by up to 1/8; in tf32 and float16 by 1/64.
# In float32, published heads lose digits in their own ways; a wrong formula is off by far more.
TOLERANCES: dict[str, Tolerance] = {
    "float32": Tolerance(1e-4, 5e-3),
    "tf32": Tolerance(2e-3, 2e-2),
    "float16": Tolerance(2e-3, 2e-2),
    "bfloat16": Tolerance(1e-2, 0.1),
}


@dataclass(frozen=True)
class Provider:
    """One way to compute a loss.

    `margin` and `target_gradient` say which loss and gradient it is, so that both can be held against
    the reference; `precision` is that of the operands of its products. `missing` says why it cannot
    run here, if it cannot. `in_graph`: it is timed as the replay of a CUDA graph.
    """

    name: str
    margin: Margin
    make: Callable[[], Loss]
    precision: Precision = "float32"
    target_gradient: TargetGradient = "exact"
    missing: str = ""
    in_graph: bool = False

    @property
    def is_fused(self) -> bool:
        """Whether it is ours."""
        return self.name.startswith("fused ")

    @property
    def bases(self) -> tuple[str, ...]:
        """The providers its times are divided by: our heads with the same loss."""
        return tuple(f"fused {self.margin.name} {precision}" for precision in BASE_PRECISIONS)


def providers(case: Case, device: torch.device) -> list[Provider]:
    """All that a case is for. Late in training a loss without a margin is 0 but for rounding: not then."""
    t = torch.tensor(case.t, device=device)  # every CurricularFace uses it
    return [*_curricularface(t), *_arcface(t), *(_normface(t) if case.phase == "start" else ())]


def _curricularface(t: Tensor) -> list[Provider]:
    margin = CurricularFace(m=M, s=S)

    def eager() -> Loss:
        return peers.eager_curricularface(t)

    return [
        *_fused(margin, t),
        Provider("official curricularface", margin, lambda: peers.official_curricularface(t)),
        Provider("eager curricularface", margin, eager),
        _in_bfloat16("eager curricularface", margin, eager),
        Provider("compiled eager curricularface", margin, lambda: _compiled(eager())),
        _in_bfloat16("compiled eager curricularface", margin, eager, _compiled),
    ]


def _arcface(t: Tensor) -> list[Provider]:
    margin = ArcFace(m=M, s=S)
    without = packages.missing("pytorch_metric_learning", False, t.device)
    name = "partial fc arcface"
    all_providers = [
        *_fused(margin, t),
        Provider("eager arcface", margin, peers.eager_arcface),
        Provider(name, margin, peers.partial_fc_arcface, target_gradient="straight_through"),
        Provider(
            "pytorch-metric-learning arcface", margin, packages.metric_learning_arcface,
            missing=without,
        ),
    ]  # fmt: skip
    if t.device.type == "cuda":
        make = peers.partial_fc_arcface
        all_providers.append(_in_bfloat16(name, margin, make, target_gradient="straight_through"))
    return all_providers


def _normface(t: Tensor) -> list[Provider]:
    margin, device = NormFace(s=S), t.device
    peer_dtypes = ("float32", "bfloat16") if device.type == "cuda" else ("float32",)
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
        Provider("eager normface", margin, peers.eager_normface),
        *(
            Provider(
                f"{name} normface{'' if dtype == 'float32' else ' ' + dtype}",
                margin,
                lambda make=make, dtype=dtype: make(getattr(torch, dtype)),
                precision=dtype,
                missing=missing,
            )
            for name, make, missing in functions
            for dtype in peer_dtypes
        ),
    ]


def _fused(margin: Margin, t: Tensor) -> list[Provider]:
    """Our head in every precision that the device has; CurricularFace also as a CUDA graph."""
    on_gpu = t.device.type == "cuda"
    ours = [
        Provider(
            f"fused {margin.name} {precision}",
            margin,
            lambda precision=precision: peers.fused(margin, precision, t),
            precision=precision,
        )
        for precision in (GPU_PRECISIONS if on_gpu else CPU_PRECISIONS)
    ]
    if on_gpu and isinstance(margin, CurricularFace):
        ours.append(
            Provider(
                f"fused {margin.name} bfloat16, CUDA graph",
                margin,
                lambda: peers.fused(margin, "bfloat16", t),
                precision="bfloat16",
                in_graph=True,
            )
        )
    return ours


def _in_bfloat16(
    name: str,
    margin: Margin,
    make: Callable[[], Loss],
    around: Callable[[Loss], Loss] = lambda loss: loss,
    target_gradient: TargetGradient = "exact",
) -> Provider:
    return Provider(
        f"{name} bfloat16",
        margin,
        lambda: around(peers.in_autocast(make(), torch.bfloat16)),
        precision="bfloat16",
        target_gradient=target_gradient,
    )


def _compiled(loss: Loss) -> Loss:
    return torch.compile(loss, dynamic=False)
