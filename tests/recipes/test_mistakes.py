"""The pairs that a person should look at, and the scores as CSV, against a set made by hand."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from fusedface.data import Images, PairList
from fusedface.recipes.evaluation import mistakes
from fusedface.recipes.evaluation.calibration import Calibration
from fusedface.recipes.evaluation.score_file import write_scores
from fusedface.recipes.evaluation.scores import PairScores


class Named(Images):
    """Images that are only names."""

    def __len__(self):
        return 8

    def image(self, index):
        raise AssertionError("no image is looked at")

    def describe(self, index):
        return f"folder/{index}.png"


FIRST, SECOND = np.arange(8), np.arange(8)[::-1].copy()
SAME = np.array([True, False, True, False, True, False, True, False])
COSINE = np.array([0.9, 0.7, 0.2, 0.1, 0.6, 0.65, 0.5, -0.3])


@pytest.fixture
def measured():
    scores = PairScores(FIRST, SECOND, SAME, COSINE)
    thresholds = SimpleNamespace(best=0.6, calibration=Calibration(slope=10.0, intercept=-5.0))
    pairs = PairList(Named(), FIRST, SECOND, SAME, np.arange(8) // 2)
    return SimpleNamespace(scores=scores, listed=scores, thresholds=thresholds, pairs=pairs)


def test_the_worst_of_each_kind_come_first(measured, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(mistakes, "pair_sheet", lambda *arguments: drawn.append(arguments))
    mistakes.draw_mistakes(measured, tmp_path / "sheet.jpg")
    ((images, (impostor, genuine), path),) = drawn
    assert (images, path) == (measured.pairs.images, tmp_path / "sheet.jpg")
    # A cosine of exactly the threshold is not above it.
    assert impostor.title == "Two people, most alike: 2 of 4 pairs are accepted at 0.600"
    assert genuine.title == "One person, least alike: 3 of 4 pairs are rejected at 0.600"
    assert impostor.pairs == [(1, 6), (5, 2), (3, 4), (7, 0)]
    assert genuine.pairs == [(2, 5), (6, 1), (4, 3), (0, 7)]
    assert impostor.captions[0] == ["0.700", "folder/1.png", "folder/6.png"]
    assert genuine.captions[0] == ["0.200", "folder/2.png", "folder/5.png"]


def test_twelve_pairs_are_shown():
    cosine = np.linspace(-1, 1, 50)
    assert mistakes.worst_pairs(cosine, 1).tolist() == list(range(49, 37, -1))
    assert mistakes.worst_pairs(cosine, -1).tolist() == list(range(12))


def test_scores_are_a_line_a_pair(measured, tmp_path):
    write_scores(measured, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path1", "path2", "same", "fold", "cosine", "probability"]
    assert len(rows) == 8
    for i, row in enumerate(rows):
        assert (row["path1"], row["path2"]) == (f"folder/{i}.png", f"folder/{7 - i}.png")
        assert (int(row["same"]), int(row["fold"])) == (SAME[i], i // 2)
        assert float(row["cosine"]) == COSINE[i]
        assert float(row["probability"]) == pytest.approx(
            1 / (1 + np.exp(5 - 10 * COSINE[i])), rel=1e-5
        )
