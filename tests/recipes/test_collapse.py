"""The picture of collapses: where each loss is lowest, from the closed forms."""

import math

import numpy as np
import pytest

from fusedface.recipes.report.collapse import COSINES, LOSSES, collapse_curve, plot_collapse

CURVES = {label: collapse_curve(margin, state) for label, margin, state in LOSSES}


def least(label):
    return COSINES[CURVES[label].argmin()]


def test_arcface_and_mv_arc_are_lowest_opposite_to_the_class_centres():
    """Just before the target's branch at pi - m, where cos(theta + m) is -1."""
    for label in ("MV-Arc, t = 1.2", "MV-Arc, t = 1.4"):
        assert least(label) == pytest.approx(-math.cos(0.5), abs=0.011)
    arcface = CURVES["ArcFace"]
    negative = COSINES <= 0
    assert COSINES[negative][arcface[negative].argmin()] == pytest.approx(-math.cos(0.5), abs=0.011)


def test_curricularface_has_a_wall_there():
    start = CURVES["CurricularFace, t = 0"]
    middle = np.abs(COSINES) <= 0.5
    assert (np.diff(start[middle]) < 0).all()
    # Where theta + m < pi: c^2 - cos(theta + m), below zero and above.
    index = int(np.abs(COSINES + 0.5).argmin())
    expected = 64 * (0.25 - math.cos(math.acos(-0.5) + 0.5)) + math.log(999)
    assert start[index] == pytest.approx(expected)


def test_the_files(tmp_path):
    plot_collapse(tmp_path / "collapse.png")
    assert {path.name for path in tmp_path.iterdir()} == {"collapse.png", "collapse.svg"}
