"""Thresholds of a set: counted by hand, kept in a file, and never taken for another network's."""

import hashlib
import json
import math

import numpy as np
import pytest

from fusedface.recipes.evaluation.scores import PairScores
from fusedface.recipes.evaluation.threshold_file import (
    model_file,
    read_thresholds,
    thresholds_of,
    write_thresholds,
)
from fusedface.recipes.evaluation.thresholds import at_fixed_threshold, set_thresholds


def example(num_impostor=400):
    """Genuine pairs at .5 to .9, impostor pairs evenly from -.5 to .5."""
    genuine, impostor = np.linspace(0.5, 0.9, 50), np.linspace(-0.5, 0.5, num_impostor)
    count = 50 + num_impostor
    first = np.arange(count)
    same = np.arange(count) < 50
    return PairScores(first, first + count, same, np.concatenate([genuine, impostor])), 2 * count


def measured(num_impostor=400):
    scores, num_images = example(num_impostor)
    return set_thresholds(scores, scores, num_images, None)


def test_points():
    found = measured()
    assert [point.far for point in found.points] == [0.1, 0.01]  # 1e-3 of 400 is no pair
    for point in found.points:
        # Of 400 evenly spaced scores, 400 far lie above the threshold.
        assert point.threshold == pytest.approx(0.5 - 400 * point.far / 399)
        assert point.num_allowed == round(400 * point.far)
        assert point.tar == 1.0
        low, high = point.threshold_interval.low, point.threshold_interval.high
        assert low < point.threshold < high
        # The quantile of n evenly spread scores strays by sqrt(far (1 - far) / n); where every image
        # is in one pair, intervals are up to sqrt(3) too wide (Owen 2007).
        spread = 2 * 1.96 * math.sqrt(point.far * (1 - point.far) / 400)
        assert 0.8 * spread < high - low < 2.2 * spread
    assert [point.is_supported for point in found.points] == [True, False]
    assert (found.num_people, found.drawn, found.scored) == (None, "images", "listed")
    assert found.at(0.01) is found.points[1]
    with pytest.raises(
        ValueError, match=r"0\.001: with 400 impostor pairs it was measured at 0\.1, 0\.01"
    ):
        found.at(1e-3)


def test_people_are_drawn_where_they_are_known():
    scores, num_images = example()
    people = np.arange(num_images) % 450
    found = set_thresholds(scores, scores, num_images, people)
    assert (found.num_people, found.drawn) == (450, "people")


def test_too_few_impostors_for_any_rate():
    scores, num_images = example(5)
    assert set_thresholds(scores, scores, num_images, None).points == ()


def test_a_fixed_threshold_by_hand():
    cosine = np.array([0.9, 0.4, 0.3, 0.6, 0.1, 0.2])
    same = np.array([1, 1, 1, 0, 0, 0], bool)
    scores = PairScores(np.arange(6), np.arange(6), same, cosine)
    listed = PairScores(np.arange(2), np.arange(2), same[2:4], cosine[2:4])
    found = at_fixed_threshold(scores, listed, 0.3)  # a score at the threshold is rejected
    assert (found.far, found.tar, found.accuracy) == (1 / 3, 2 / 3, 0.0)


def test_the_file_keeps_every_number(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    sets = {"lfw": measured(), "orl [x]": measured(5)}
    path = tmp_path / "thresholds.json"
    write_thresholds(path, model_file(tmp_path / "model.pt"), sets)
    found = read_thresholds(path)
    assert found.sets == sets
    assert found.model.sha256 == hashlib.sha256(b"weights").hexdigest()
    name, chosen = thresholds_of(path, tmp_path / "model.pt", "lfw")
    assert (name, chosen) == ("lfw", sets["lfw"])
    with pytest.raises(ValueError, match=r"several sets; choose one with --set: lfw, orl \[x\]"):
        thresholds_of(path, tmp_path / "model.pt", None)
    with pytest.raises(ValueError, match="holds no set 'cfp'; it holds: lfw"):
        thresholds_of(path, tmp_path / "model.pt", "cfp")
    (tmp_path / "other.pt").write_bytes(b"others")
    with pytest.raises(
        ValueError, match=r"was measured with model\.pt .* not with other\.pt .*evaluate"
    ):
        thresholds_of(path, tmp_path / "other.pt", "lfw")


DAMAGE = {
    "format": "x", "version": 2, "model": {"file": 3, "sha256": "a"}, "sets": {},
}  # fmt: skip


@pytest.mark.parametrize("key", DAMAGE)
def test_damage_is_named(tmp_path, key):
    path = tmp_path / "thresholds.json"
    (tmp_path / "model.pt").write_bytes(b"weights")
    write_thresholds(path, model_file(tmp_path / "model.pt"), {"lfw": measured()})
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {key: DAMAGE[key]}))
    with pytest.raises(ValueError, match=r"thresholds\.json"):
        read_thresholds(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.3", None, True, [1], 10**400])
@pytest.mark.parametrize("where", ["best", "threshold", "slope", "num_impostor"])
def test_what_is_no_number_is_refused(tmp_path, where, value):
    path = tmp_path / "thresholds.json"
    (tmp_path / "model.pt").write_bytes(b"weights")
    write_thresholds(path, model_file(tmp_path / "model.pt"), {"lfw": measured()})
    document = json.loads(path.read_text())
    found = document["sets"]["lfw"]
    place = {"threshold": found["points"][0], "slope": found["calibration"]}.get(where, found)
    place[where] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"thresholds\.json is no thresholds\.json: {where} is "):
        read_thresholds(path)
