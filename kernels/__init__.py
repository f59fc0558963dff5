"""The fused margin-softmax head: margins, one primitive, its backends, one public function.

    margins/         T and N of each loss, and what it carries from batch to batch
    weightings.py    the weight of each sample in the loss
    options.py       HeadOptions: all that decides what a head computes and how
    functional.py    margin_loss: checks, then a backend's whole loss, or the primitive and plain_loss.py
    plain_loss.py    the loss from cosines and log-sum-exp: plain autograd on B numbers
    interface/       what a backend computes        reference.py, chunked.py, gpu/: the backends
    sgd.py           a step of SGD inside the backward
    sampling.py      the same loss over a random part of the classes (Partial FC)
    sharded.py       the same loss with the class centres split over processes
    centre_sgd.py    SGD, with a kernel for the class centres
    initial_loss.py  the loss to expect at the start        sinking.py: do all cosines fall together?

This package imports no other part of the project.
"""

from fusedface.kernels.centre_sgd import CentreSGD
from fusedface.kernels.checks import NonFiniteInputError
from fusedface.kernels.functional import margin_loss
from fusedface.kernels.initial_loss import predicted_initial_loss
from fusedface.kernels.interface.update import CentreUpdate
from fusedface.kernels.margins import (
    LDAM,
    MARGINS,
    MVAM,
    AdaFace,
    ArcFace,
    Batch,
    Combined,
    CosFace,
    CurricularFace,
    MagFace,
    Margin,
    MVArc,
    NormFace,
    SphereFace,
)
from fusedface.kernels.options import HeadOptions
from fusedface.kernels.output import MarginOutput, Modulation
from fusedface.kernels.reference import cosines
from fusedface.kernels.sampling import check_sample_rate
from fusedface.kernels.sharded import Group
from fusedface.kernels.weightings import WEIGHTINGS, SelfPaced, SelfPacedLinear, Weighting

STATE_NAMES = tuple(
    dict.fromkeys(
        name
        for kind in (*MARGINS.values(), *WEIGHTINGS.values())
        for name in kind().initial_state()
    )
)
"""Names of the state of all margins and weightings, each once."""

__all__ = [
    "LDAM",
    "MARGINS",
    "MVAM",
    "STATE_NAMES",
    "WEIGHTINGS",
    "AdaFace",
    "ArcFace",
    "Batch",
    "CentreSGD",
    "CentreUpdate",
    "Combined",
    "CosFace",
    "CurricularFace",
    "Group",
    "HeadOptions",
    "MVArc",
    "MagFace",
    "Margin",
    "MarginOutput",
    "Modulation",
    "NonFiniteInputError",
    "NormFace",
    "SelfPaced",
    "SelfPacedLinear",
    "SphereFace",
    "Weighting",
    "check_sample_rate",
    "cosines",
    "margin_loss",
    "predicted_initial_loss",
]
