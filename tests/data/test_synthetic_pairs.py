"""Verification pairs of generated faces: balanced folds, look-alikes among the impostors."""

import numpy as np
import pytest

from fusedface.data import SyntheticFaces, synthetic_pairs


@pytest.fixture(scope="module")
def source() -> SyntheticFaces:
    return SyntheticFaces(48, 5, image_size=(16, 16), first_identity=400)


def test_folds_are_balanced(source):
    pairs = synthetic_pairs(source, 400, folds=8)
    assert {len(column) for column in pairs} == {400}
    for fold in range(8):
        assert (pairs.fold == fold).sum() == 50
        assert pairs.same[pairs.fold == fold].sum() == 25


def test_pairs_are_what_they_say(source):
    first, second, same, _ = synthetic_pairs(source, 1000)
    assert same.dtype == bool
    assert np.array_equal(source.identities[first] == source.identities[second], same)
    assert (first != second).all()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_share_of_look_alikes(source, share):
    first, second, same, _ = synthetic_pairs(source, 1000, within_family=share)
    family = np.array([source.family(i) for i in range(len(source))])
    alike = (family[first] == family[second])[~same].mean()
    by_chance = 3 / 47  # of the 47 other people, 3 are of the family
    assert alike == pytest.approx(share + (1 - share) * by_chance, abs=0.04)


def test_the_seed_alone_decides(source):
    once, again = synthetic_pairs(source, 200, seed=1), synthetic_pairs(source, 200, seed=1)
    other = synthetic_pairs(source, 200, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once.first, other.first)


def test_one_image_each_makes_no_genuine_pair():
    with pytest.raises(ValueError, match="at least 2 images of each person"):
        synthetic_pairs(SyntheticFaces(4, 1), 20)
