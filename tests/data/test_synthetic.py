"""Generated faces: a pure function of seed, person and photo; people that can be told apart."""

import pickle

import numpy as np
import pytest
import torch

from fusedface.data import FaceSource, SyntheticFaces, contact_sheet
from fusedface.data.synthetic.hashing import uniforms
from fusedface.data.synthetic.parameters import TRAITS, traits


def test_it_is_a_source():
    source = SyntheticFaces(6, 3, image_size=(64, 48))
    assert isinstance(source, FaceSource)
    assert (len(source), source.num_classes) == (18, 6)
    assert source.image(5).shape == (64, 48, 3)
    assert source.image(5).dtype == np.uint8
    assert source.labels.tolist() == np.repeat(range(6), 3).tolist()
    assert source.describe(5) == "identity 1, image 2"
    again = pickle.loads(pickle.dumps(source))
    assert np.array_equal(again.image(7), source.image(7))


def test_an_image_depends_on_no_batch_or_order():
    def fresh():
        return SyntheticFaces(20, 4, difficulty=1.0)

    whole = fresh().render(torch.arange(80))
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fresh().render(order), whole[order])
    single = torch.stack([torch.from_numpy(fresh().image(i)) for i in range(0, 80, 9)])
    assert torch.equal(single, whole[::9])
    source = fresh()
    source.render(torch.tensor([3, 3, 50]))  # kept from here on
    assert torch.equal(source.render(torch.arange(80)), whole)


def test_a_person_is_the_same_in_every_source_of_a_seed():
    few, many = SyntheticFaces(4, 3, first_identity=8), SyntheticFaces(40, 3)
    assert torch.equal(few.render(torch.arange(12)), many.render(torch.arange(24, 36)))
    more = SyntheticFaces(4, 5, first_identity=8)
    assert np.array_equal(more.image(5), few.image(3))  # identity 9, image 0
    other = SyntheticFaces(40, 3, seed=1)
    assert not np.array_equal(other.image(0), many.image(0))


def test_disjoint_ranges_are_different_people():
    numbers = torch.arange(600)
    drawn = traits(0, numbers, 4, 0.45)
    low, high = torch.tensor(list(TRAITS.values()), dtype=torch.float64).T
    unit = (drawn - low) / (high - low)
    assert 0 <= unit.min() <= unit.max() <= 1
    distance = torch.cdist(unit, unit).fill_diagonal_(torch.inf)
    assert distance.min() > 0.3  # nobody comes twice
    nearest = distance.argmin(dim=1)
    assert (nearest // 4 == numbers // 4).float().mean() > 0.95  # the nearest is of the family


def test_people_can_be_told_apart_and_difficulty_makes_it_harder():
    """Nearest mean image, as the plainest classifier there is."""
    accuracy = {}
    for difficulty in (0.0, 0.5, 1.0):
        images = SyntheticFaces(40, 6, image_size=(48, 48), difficulty=difficulty).render(
            torch.arange(240)
        )
        flat = images.float().flatten(1).reshape(40, 6, -1)
        flat = flat - flat.mean(dim=2, keepdim=True)
        means = flat[:, :3].mean(dim=1)
        tested = flat[:, 3:].reshape(120, -1)
        found = torch.cdist(tested, means).argmin(dim=1)
        accuracy[difficulty] = (
            (found == torch.arange(40).repeat_interleave(3)).float().mean().item()
        )
    assert accuracy[0.0] > 0.95
    assert accuracy[0.0] > accuracy[0.5] + 0.2 > accuracy[1.0] + 0.2
    assert accuracy[1.0] > 2 / 40


def test_label_noise():
    source = SyntheticFaces(50, 40, label_noise=0.2)
    wrong = source.labels != source.identities
    assert 0.17 < wrong.mean() < 0.23
    assert source.labels.min() >= 0
    assert source.labels.max() < 50
    assert np.array_equal(source.labels, SyntheticFaces(50, 40, label_noise=0.2).labels)
    more = SyntheticFaces(50, 40, label_noise=0.4)
    assert (more.labels != more.identities)[wrong].all()  # more noise keeps what was wrong


def test_hash_is_uniform_and_streams_are_independent():
    keys = torch.arange(20_000)
    a, b = uniforms(0, 0, (keys,), 3), uniforms(0, 1, (keys,), 3)
    assert a.min() >= 0
    assert a.max() < 1
    counts = torch.histc(a, 50, 0, 1)
    expected = a.numel() / 50
    assert ((counts - expected) ** 2 / expected).sum() < 95  # chi-square, 49 degrees, 1 in 10,000
    for x, y in ((a[:, 0], b[:, 0]), (a[:, 0], a[:, 1]), (a[:-1, 0], a[1:, 0])):
        assert torch.corrcoef(torch.stack([x, y]))[0, 1].abs() < 0.03


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"num_identities": 1}, "num_identities"),
        ({"images_per_identity": 0}, "images_per_identity"),
        ({"difficulty": 1.5}, "difficulty"),
        ({"label_noise": 1.0}, "label_noise"),
        ({"image_size": (8, 112)}, "image_size"),
        ({"first_identity": -1}, "first_identity"),
        ({"family_size": 0}, "family_size"),
        ({"family_spread": 0.0}, "family_spread"),
    ],
)
def test_bad_arguments_are_named(arguments, word):
    with pytest.raises(ValueError, match=f"{word} must be"):
        SyntheticFaces(**{"num_identities": 4, "images_per_identity": 2} | arguments)


def test_indices_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 8\)"):
        SyntheticFaces(4, 2).render(torch.tensor([8]))


def test_contact_sheet(tmp_path):
    from PIL import Image

    source = SyntheticFaces(4, 3)
    contact_sheet(source, tmp_path / "new" / "sheet.png", num_identities=3, images_per_identity=3)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.size == (110 + 3 * 116 + 4, 3 * 116 + 4)
        pixels = np.asarray(sheet)
    assert np.array_equal(pixels[4:116, 110:222], source.image(0))
