"""Draws the figures of the CurricularFace paper on the losses, from our functions of the margins.

Fig. 1   modulation       I(t, cos θ_j), the factor of a hard negative's cosine, and its slope M = dN/dcos
Fig. 3   loss_ratio       CurricularFace's loss over ArcFace's, early and late in training
Fig. 4   boundaries       Table 1: where a sample is on the border to a hard class, T(cos θ_y) = N(cos θ_j)
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from fusedface.kernels import ArcFace, Batch, CurricularFace, Margin, MVArc, NormFace
from fusedface.recipes.report.style import COLORS, new_figure, save, use_style

EARLY, LATE = 0.1, 0.6  # values of t in the first steps, and of a trained network
State = dict[str, float]
Loss = tuple[str, Margin, State, str]  # label, margin, state, dashes

LOSSES: tuple[Loss, ...] = (
    ("softmax on cosines", NormFace(), {}, "-"),
    ("ArcFace", ArcFace(m=0.5), {}, "--"),
    ("MV-Arc, t = 1.2", MVArc(m=0.5, t=1.2), {}, "-."),
    (f"CurricularFace, early (t = {EARLY})", CurricularFace(m=0.5), {"t": EARLY}, ":"),
    (f"CurricularFace, late (t = {LATE})", CurricularFace(m=0.5), {"t": LATE}, "-"),
)


def factor(margin: Margin, state: State, cosines: np.ndarray) -> np.ndarray:
    """I of a hard negative: N(c) = I c, and for MV-Arc I c + t - 1; same shape as `cosines`."""
    hard = margin.reweighting(_tensors(state))
    return hard.square * cosines + float(hard.linear)


def slope(margin: Margin, state: State, cosines: np.ndarray) -> np.ndarray:
    """M = dN/dc of a hard negative; same shape as `cosines`."""
    hard = margin.reweighting(_tensors(state))
    return hard.slope(torch.from_numpy(cosines)).numpy() + np.zeros_like(cosines)


def pair_loss(margin: Margin, state: State, cos_y: np.ndarray, cos_j: np.ndarray) -> np.ndarray:
    """Loss of samples with one negative class; both arrays of cosines have the same shape."""
    tensors = _tensors(state)
    target, negative = torch.from_numpy(cos_y), torch.from_numpy(cos_j)
    batch = _batch(target)
    is_hard = negative > margin.threshold(batch, tensors)
    negative = torch.where(is_hard, margin.reweighting(tensors).value(negative), negative)
    return F.softplus(margin.s * (negative - margin.target(batch, tensors))).numpy()


def boundary_gap(
    margin: Margin, state: State, angle_y: np.ndarray, angle_j: np.ndarray
) -> np.ndarray:
    """T(cos θ_y) - N(cos θ_j) for a hard class j, 0 on the boundary; angles in radians, of one shape."""
    tensors = _tensors(state)
    cos_y = torch.from_numpy(np.cos(angle_y).ravel())
    target = margin.target(_batch(cos_y), tensors).numpy().reshape(angle_y.shape)
    return target - margin.reweighting(tensors).value(torch.from_numpy(np.cos(angle_j))).numpy()


def _batch(cos_y: torch.Tensor) -> Batch:
    """Samples of one class with these target cosines and embeddings of length 1."""
    labels = torch.zeros_like(cos_y, dtype=torch.int64)
    return Batch(cos_y, torch.ones_like(cos_y), labels, labels >= 0)


def plot_modulation(path: Path) -> None:
    """Draw Fig. 1 and Fig. 3, as PNG and SVG.

    Args:
        path: path of the PNG file; the SVG file lies next to it.
    """
    cosines = np.linspace(0.0, 1.0, 101)
    with use_style():
        figure = new_figure(11.0, 4.2)
        left, middle, right = figure.subplots(1, 3)
        for i, (label, margin, state, dashes) in enumerate(LOSSES[1:], start=1):
            look = {"color": COLORS[i], "linestyle": dashes}
            left.plot(cosines, factor(margin, state, cosines), label=label, **look)
            middle.plot(cosines, slope(margin, state, cosines), **look)
        left.set_ylabel("I(t, cos θ_j)")
        middle.set_ylabel("M = dN / dcos θ_j")
        for axis in (left, middle):
            axis.set_xlabel("cosine of a hard negative")
        for t, dashes in ((EARLY, ":"), (LATE, "-")):
            for cos_y, color in ((0.7, COLORS[0]), (0.3, COLORS[5])):
                right.plot(
                    cosines, loss_ratio(t, cos_y, cosines), color=color, linestyle=dashes,
                    label=f"cos θ_y = {cos_y}, t = {t}",
                )  # fmt: skip
        right.set_xlabel("largest cosine of a negative")
        right.set_ylabel("CurricularFace's loss / ArcFace's")
        right.legend(loc="upper left", fontsize=9)
        figure.legend(handles=left.lines, loc="outside upper center", ncols=4)
        save(figure, path)


def loss_ratio(t: float, cos_y: float, cosines: np.ndarray) -> np.ndarray:
    """CurricularFace's loss over ArcFace's for a sample with one negative, at each of its cosines."""
    targets = np.full_like(cosines, cos_y)
    ours = pair_loss(CurricularFace(m=0.5), {"t": t}, targets, cosines)
    return ours / pair_loss(ArcFace(m=0.5), {}, targets, cosines)


def plot_boundaries(path: Path) -> None:
    """Draw Fig. 4, as PNG and SVG. Above the line of a loss, a sample belongs to class y.

    Args:
        path: path of the PNG file; the SVG file lies next to it.
    """
    degrees = np.linspace(0.0, 100.0, 401)
    angle_y, angle_j = np.meshgrid(np.radians(degrees), np.radians(degrees))
    with use_style():
        figure = new_figure(5.6, 5.2)
        axes = figure.add_subplot()
        for i, (label, margin, state, dashes) in enumerate(LOSSES):
            gap = boundary_gap(margin, state, angle_y, angle_j)
            axes.contour(degrees, degrees, gap, levels=[0.0], colors=COLORS[i], linestyles=dashes)
            axes.plot([], [], color=COLORS[i], linestyle=dashes, label=label)
        axes.set_aspect("equal")
        axes.set_xlabel("angle to the own class, θ_y, degrees")
        axes.set_ylabel("angle to a hard class, θ_j, degrees")
        axes.legend(loc="lower right", fontsize=9)
        save(figure, path)


def _tensors(state: State) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in state.items()}
