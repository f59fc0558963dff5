"""Verification pairs drawn from labelled faces: what they are of, and that they are always the same."""

import math
from itertools import combinations

import numpy as np
import pytest
from tiny_run import NUM_IDENTITIES, NUM_IMAGES, write_faces

from fusedface.data import open_source
from fusedface.data.drawn_pairs import fewer_people, sample_pairs
from fusedface.data.sources import FaceSource


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"))


def test_sampled_pairs_are_what_they_say(faces):
    source = open_source(faces / "train")
    pairs = sample_pairs(source, 60)
    identity = pairs.images.identities
    assert np.array_equal(identity[pairs.first] == identity[pairs.second], pairs.same)
    assert (pairs.first != pairs.second).all()
    keys = {tuple(sorted(pair)) for pair in zip(pairs.first, pairs.second, strict=True)}
    assert len(keys) == len(pairs) == 60
    for fold in range(10):
        assert pairs.same[pairs.fold == fold].sum() == 3
    again = sample_pairs(source, 60)
    assert np.array_equal(again.first, pairs.first)
    # Only 6 x 15 pairs are of one person, however many are asked for.
    assert sample_pairs(source, 10_000).same.sum() == NUM_IDENTITIES * math.comb(NUM_IMAGES, 2)


def test_whole_sources_keep_images_that_are_in_no_pair(faces):
    source = open_source(faces / "train")
    pairs = sample_pairs(source, 20, whole=True)
    few = sample_pairs(source, 20)
    assert len(pairs.images) == len(source) > len(few.images)
    named = [
        {
            (p.images.describe(a), p.images.describe(b))
            for a, b in zip(p.first, p.second, strict=True)
        }
        for p in (pairs, few)
    ]
    assert named[0] == named[1]
    assert pairs.drawn


def test_fewer_people_are_whole_people(faces):
    source = open_source(faces / "train")
    assert fewer_people(source, len(source)) is source
    some = fewer_people(source, 2 * NUM_IMAGES + 1)
    assert np.bincount(some.labels).tolist() == [NUM_IMAGES] * 2
    assert set(some.class_names) < set(source.class_names)
    assert some.describe(0) == fewer_people(source, 2 * NUM_IMAGES + 1).describe(0)


class Labelled(FaceSource):
    """People with so many images each; the images are never read."""

    def __init__(self, *counts):
        self.labels = np.repeat(np.arange(len(counts)), counts)
        self.class_names = [f"person {number}" for number in range(len(counts))]

    def image(self, index):
        raise NotImplementedError

    def describe(self, index):
        return f"image {index}"


@pytest.mark.parametrize("counts", [(1, 7, 2, 30, 1), (40,) * 9, (5, 1, 0, 3, 200)])
def test_genuine_pairs_are_those_of_all_pairs_shuffled(counts):
    """The pairs of a set stay the same over versions of this code: figures are compared over them."""
    source = Labelled(*counts)
    order = np.random.default_rng(1).permutation(len(source.labels))
    source.labels = source.labels[order]
    of_a_person = [np.flatnonzero(source.labels == person) for person in range(len(counts))]
    everything = [pair for images in of_a_person for pair in combinations(images.tolist(), 2)]
    expected = np.random.default_rng(0).permutation(np.array(everything))
    for num_pairs in (60, 10**6):
        pairs = sample_pairs(source, num_pairs, whole=True)
        found = np.stack([pairs.first, pairs.second], axis=1)[pairs.same]
        assert np.array_equal(found, expected[: num_pairs // 2])


def test_two_people_are_left_however_many_images_they_have():
    """Images of one person make no impostor pair. That is told before any image is embedded."""
    some = fewer_people(Labelled(300, 60, 40), 50)
    assert some.num_classes == 2
    both = Labelled(300, 60)
    assert fewer_people(both, 320) is both
    assert not sample_pairs(both, 60).same.all()


def test_images_of_one_person_are_refused():
    with pytest.raises(ValueError, match="none was drawn from 60 images of 1 people"):
        sample_pairs(Labelled(60), 60)
