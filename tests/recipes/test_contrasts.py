"""Families of paired tests over the runs of a study, against figures worked out by hand."""

import io
import json
import math

import pytest
from rich.console import Console

from fusedface.recipes.compare.contrasts import (
    LeftOut,
    among_plain,
    best_left_out,
    family,
    gains_of_cures,
)
from fusedface.recipes.compare.study_figures import print_study

# Differences of "a" and "a + x" are 0.02, 0.04 and 0.06, those of "b" and "b + x" 0.01, 0.05 and 0.03.
ACCURACIES = {
    "a": {0: 0.70, 1: 0.70, 2: 0.70},
    "a + x": {0: 0.72, 1: 0.74, 2: 0.76},
    "b": {0: 0.60, 1: 0.60, 2: 0.60, 3: 0.10},
    "b + x": {0: 0.61, 1: 0.65, 2: 0.63},
    "c + x": {0: 0.9},
    "d": {7: 0.5},
}


def test_gains_of_cures_on_the_seeds_that_both_have():
    """Student's t with two degrees of freedom has a closed form: p = 1 - t / sqrt(2 + t^2)."""
    gains = gains_of_cures(ACCURACIES)
    assert [(gain.first, gain.second) for gain in gains] == [("a + x", "a"), ("b + x", "b")]
    p = []
    for gain, mean in zip(gains, (0.04, 0.03), strict=True):
        assert gain.test.difference.count == 3
        assert gain.test.difference.mean == pytest.approx(mean)
        assert gain.test.difference.std == pytest.approx(0.02)
        error = 0.02 / math.sqrt(3)
        t = mean / error
        p.append(1 - t / math.sqrt(2 + t * t))
        assert gain.test.p == pytest.approx(p[-1])
        # The quantile of two degrees of freedom: (2 q - 1) sqrt(2 / (4 q (1 - q))).
        for interval, q in ((gain.test.interval, 0.975), (gain.joint, 1 - 0.025 / 2)):
            half = error * (2 * q - 1) * math.sqrt(2 / (4 * q * (1 - q)))
            assert interval == pytest.approx((mean - half, mean + half))
    assert [gain.test.p_holm for gain in gains] == pytest.approx([2 * p[0], max(2 * p[0], p[1])])


def test_pairs_without_a_common_seed_are_left_out_and_one_seed_has_no_interval():
    assert [one.second for one in among_plain(ACCURACIES, "a")] == ["b"]
    (one,) = family(ACCURACIES, [("c + x", "a")])
    assert (one.test.p, one.test.interval, one.joint) == (None, None, None)


def test_the_best_is_chosen_on_the_other_seeds():
    """Chosen on all seeds, "lucky" would be the best by the one seed that it is lucky on."""
    accuracies = {
        "lucky": {0: 0.99, 1: 0.70, 2: 0.70},
        "steady": {0: 0.75, 1: 0.75, 2: 0.75},
        "other": {0: 0.60, 1: 0.61, 2: 0.62, 3: 0.9},
    }
    found = best_left_out(accuracies, ["lucky", "steady"], ["other"])
    assert found == [
        LeftOut(0, "steady", "other", pytest.approx(0.15)),
        LeftOut(1, "lucky", "other", pytest.approx(0.09)),
        LeftOut(2, "lucky", "other", pytest.approx(0.08)),
    ]
    assert best_left_out(ACCURACIES, ["a"], ["d"]) == []


def entry(label, seed, accuracy):
    verification = {"set": {"accuracy": accuracy}}
    return {
        "label": label, "seed": seed, "recipe": "", "inputs": {}, "machine": {"processor": "A"},
        "summary": {"verdict": "converged", "cpu_seconds": 120.0},
        "evaluations": [{"step": 1, "verification": verification}],
        "train": {"step": [1], "target_cosine": [0.5], "accuracy": [0.25]},
    }  # fmt: skip


def written(path, entries):
    path.write_text(json.dumps({"format": "fusedface study", "version": 1, "runs": entries}))
    return path


def test_the_tables_of_a_study(tmp_path):
    entries = [
        entry(f"net-{label}", seed, accuracy)
        for label, of_label in ACCURACIES.items()
        for seed, accuracy in of_label.items()
    ]
    path = written(tmp_path / "runs.json", entries)
    console = Console(width=160, record=True, file=io.StringIO())
    print_study(path, "net-a", ["net-b"], console)
    text = console.export_text()
    assert "15 runs of 6 variants: 15 on A; 30 minutes of a core" in text
    assert "+4.00 ± 2.00" in text
    assert "a less these variants" in text
    for reference, against in (("net-z", []), ("net-a", ["net-z"])):
        with pytest.raises(ValueError, match="no run of net-z; it has net-a, net-b, net-c, net-d"):
            print_study(path, reference, against, console)


def test_a_study_without_a_figure_says_which(tmp_path):
    without = entry("a", 0, 0.5) | {"train": {"step": [1], "accuracy": [0.5]}}
    path = written(tmp_path / "runs.json", [without])
    with pytest.raises(ValueError, match=r"runs\.json: a, seed 0 lacks target_cosine"):
        print_study(path, "a", [], Console(quiet=True))
