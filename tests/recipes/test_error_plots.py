"""ROC, DET and CMC as they are drawn: rates end at 1, axes at what the curves reach."""

import numpy as np
import pytest
from scipy.stats import norm

from fusedface.recipes.evaluation.rates import roc
from fusedface.recipes.report import cmc
from fusedface.recipes.report import roc as plots


@pytest.fixture
def axes(monkeypatch, tmp_path):
    """Draws, and gives the axes."""

    def draw(module, function, curves):
        drawn = []
        monkeypatch.setattr(module, "save", lambda figure, _path: drawn.append(figure))
        function(curves, tmp_path / "x.png")
        (figure,) = drawn
        figure.canvas.draw()
        return figure.axes[0]

    return draw


def curves_of(distance, number=4000):
    rng = np.random.default_rng(0)
    return {"set": roc(rng.normal(distance, 1, number), rng.normal(0, 1, number))}


@pytest.mark.parametrize("distance", [0.5, 3.0, 5.0])
def test_rates_have_no_tick_above_one(axes, distance):
    drawn = axes(plots, plots.plot_roc, curves_of(distance))
    low, high = drawn.get_ylim()
    assert high > 1
    assert low >= 0
    assert max(t for t in drawn.get_yticks() if t <= high) == pytest.approx(1)


def test_ranks_are_numbered_from_one(axes):
    drawn = axes(cmc, cmc.plot_cmc, {"set": [1.0] * 20})
    assert drawn.get_xticks().tolist() == [1, 5, 10, 15, 20]
    assert drawn.get_ylim()[0] < 0.96


@pytest.mark.parametrize(("distance", "top"), [(1.0, "60"), (4.5, "10"), (6.5, "2")])
def test_det_ends_beyond_what_the_curve_reaches(axes, distance, top):
    """Gaussian scores; both rates from 0.1 % to what the other one's 0.1 % costs."""
    threshold = np.linspace(distance - 3.09, 3.09, 50) if distance > 4 else np.linspace(-2, 3, 50)
    curve = norm.sf(threshold), norm.sf(threshold - distance)
    drawn = axes(plots, plots.plot_det, {"set": curve})
    labels = [label.get_text() for label in drawn.get_xticklabels()]
    assert labels == [label.get_text() for label in drawn.get_yticklabels()]
    assert drawn.get_xlim() == drawn.get_ylim()
    assert labels[-1] == top


def test_det_says_where_nothing_can_be_drawn(axes):
    drawn = axes(plots, plots.plot_det, {"set": roc(np.ones(5), np.zeros(5))})
    (text,) = (text.get_text() for text in drawn.get_legend().get_texts())
    assert text == "set: no threshold errs both ways"
