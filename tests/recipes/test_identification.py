"""1:N identification against a loop over probes and people, and by hand."""

import numpy as np
import pytest

from fusedface.recipes.evaluation import identification as module
from fusedface.recipes.evaluation.identification import identify
from fusedface.recipes.evaluation.scores import unit


def naive(embeddings, identities, rates):
    """CMC and DIR, a probe and a person at a time."""
    gallery = {}
    probes = []
    for vector, person in zip(embeddings, identities, strict=True):
        if person in gallery:
            probes.append((vector, person))
        else:
            gallery[person] = vector
    places, own, strangers = [], [], []
    for vector, person in probes:
        scores = {other: float(vector @ enrolled) for other, enrolled in gallery.items()}
        mine = scores.pop(person)
        places.append(sum(score >= mine for score in scores.values()))
        own.append(mine)
        strangers.append(max(scores.values()))
    cmc = [sum(p <= k for p in places) / len(places) for k in range(min(20, len(gallery)))]
    ranked = sorted(strangers, reverse=True)
    found = {}
    for far in rates:
        allowed = int(far * len(ranked))
        if allowed:
            threshold = ranked[min(allowed, len(ranked) - 1)]
            hits = [p == 0 and s > threshold for p, s in zip(places, own, strict=True)]
            found[f"{far:g}"] = sum(hits) / len(hits)
    return cmc, found


@pytest.mark.parametrize("seed", range(4))
def test_against_a_loop(seed, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    rng = np.random.default_rng(seed)
    identities = rng.integers(25, size=90)  # some with one image
    centres = rng.normal(size=(25, 5))
    embeddings = unit(centres[identities] + 0.6 * rng.normal(size=(90, 5)))
    found = identify(embeddings, identities)
    cmc, rates = naive(embeddings, identities, (0.1, 0.01, 0.001))
    assert found.cmc == pytest.approx(cmc)
    assert found.dir_at_far == pytest.approx(rates)
    assert set(found.dir_at_far) == {"0.1"}
    assert (found.num_gallery, found.num_probes) == (
        len(set(identities)),
        90 - len(set(identities)),
    )


def test_by_hand():
    """Person 1's second photo looks like person 0 more than like the enrolled one."""
    embeddings = unit(np.array([[1, 0], [1, 0.1], [0, 1], [1, 0.9], [0.1, 1]], dtype=float))
    found = identify(embeddings, np.array([0, 0, 1, 1, 1]))
    assert found.cmc == (2 / 3, 1.0)
    assert found.dir_at_far == {}  # three searches support no rate below a third


def test_a_tie_is_no_hit():
    embeddings = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    found = identify(embeddings, np.array([0, 1, 2, 2]))
    assert found.cmc == (0.0, 1.0, 1.0)


def test_sets_without_a_search():
    embeddings = np.eye(3)
    assert identify(embeddings, np.array([0, 1, 2])) is None  # one image each
    assert identify(embeddings, np.array([0, 0, 0])) is None  # one person
