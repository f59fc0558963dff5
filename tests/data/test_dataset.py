"""Batches depend only on (seed, epoch, index); unreadable images are replaced and reported."""

import numpy as np
import pytest
import torch
from face_files import write_people
from torch.utils.data import DataLoader

from fusedface.data import (
    PRESETS,
    FaceDataset,
    SyntheticFaces,
    augmentation,
    collate_whole,
    open_source,
)
from fusedface.data.transforms import fit
from fusedface.models import Preprocessing

PLAIN = Preprocessing()


def test_items_are_images_and_labels(tmp_path):
    source = open_source(write_people(tmp_path))
    batch = FaceDataset(source, "none", PLAIN, seed=0).batch([4, 0])
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape == (2, 112, 112, 3)
    assert batch.labels.tolist() == [1, 0]
    assert np.array_equal(batch.images[0].numpy(), source.image(4))
    assert batch.unreadable == ()


@pytest.mark.parametrize("preset", PRESETS)
def test_augmentation_is_a_function_of_seed_epoch_and_index(tmp_path, preset):
    pytest.importorskip("albumentations")
    source = open_source(write_people(tmp_path))
    dataset = FaceDataset(source, preset, PLAIN, seed=3)
    whole = dataset.batch(range(9)).seen()
    for index in (7, 2, 5):  # another order, one at a time
        assert torch.equal(dataset[index].seen()[0], whole[index])
    again = FaceDataset(source, preset, PLAIN, seed=3).batch(range(9)).seen()
    assert torch.equal(whole, again)
    if preset != "none":
        dataset.set_epoch(1)
        assert not torch.equal(dataset.batch(range(9)).seen(), whole)
        other = FaceDataset(source, preset, PLAIN, seed=4).batch(range(9)).seen()
        assert not torch.equal(other, whole)


def test_images_mirrored_late_are_those_mirrored_by_the_preset(tmp_path):
    """On the device after the copy, and on the host image by image: the same pixels."""
    source = open_source(write_people(tmp_path))
    batch = FaceDataset(source, "flip", PLAIN, seed=3).batch(range(9))
    flip = augmentation("flip", PLAIN.image_size)
    expected = [flip(source.image(i), np.random.default_rng((3, 0, i))) for i in range(9)]
    assert 0 < batch.mirrored.sum() < 9
    assert np.array_equal(batch.seen().numpy(), np.stack(expected))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_gives_whole_batches_for_any_number_of_workers(tmp_path, num_workers):
    source = open_source(write_people(tmp_path))
    dataset = FaceDataset(source, "flip", PLAIN, seed=0)
    order = [[8, 1, 4], [0, 2, 3]]
    loader = DataLoader(
        dataset, batch_sampler=order, num_workers=num_workers, collate_fn=collate_whole
    )
    for batch, indices in zip(loader, order, strict=True):
        assert torch.equal(batch.seen(), dataset.batch(indices).seen())
        assert batch.labels.tolist() == source.labels[indices].tolist()


def test_flip_mirrors_half_of_the_images():
    rng = np.random.default_rng(0)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    flip = augmentation("flip", (2, 2))
    flipped = [np.array_equal(flip(image, rng), image[:, ::-1]) for _ in range(400)]
    assert 160 < sum(flipped) < 240


@pytest.mark.parametrize("preset", [p for p in PRESETS if p not in ("none", "flip")])
def test_presets_keep_size_and_change_some_images(preset):
    pytest.importorskip("albumentations")
    transform = augmentation(preset, (112, 112))
    image = SyntheticFaces(2, 1).image(0)
    results = [transform(image, np.random.default_rng(i)) for i in range(40)]
    assert all(r.shape == image.shape and r.dtype == np.uint8 for r in results)
    changed = [not (np.array_equal(r, image) or np.array_equal(r, image[:, ::-1])) for r in results]
    assert 4 <= sum(changed) <= 38


def test_unknown_preset_is_named():
    with pytest.raises(ValueError, match="'flop'"):
        augmentation("flop", (112, 112))


def test_without_albumentations_flip_works_and_crop_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "albumentations", None)
    augmentation("flip", (112, 112))
    with pytest.raises(ValueError, match="pip install albumentations"):
        augmentation("crop", (112, 112))


def test_images_are_scaled_to_what_the_backbone_takes(tmp_path):
    source = open_source(write_people(tmp_path))
    small = Preprocessing(input_size=(64, 64))
    assert FaceDataset(source, "none", small, 0).batch([0]).images.shape == (1, 64, 64, 3)
    narrow = Preprocessing(input_size=(112, 96), crop="center")
    batch = FaceDataset(source, "none", narrow, 0).batch([0])
    assert batch.images.shape == (1, 112, 112, 3)  # the crop is the preprocessing's
    assert narrow.images_to_tensor(batch.images).shape == (1, 3, 112, 96)
    assert fit(np.zeros((50, 30, 3), np.uint8), (112, 96)).shape == (112, 96, 3)


def test_unreadable_images_are_replaced_by_the_next_and_reported(tmp_path):
    source = open_source(write_people(tmp_path))
    (tmp_path / "bob" / "bob_0001.png").write_bytes(b"broken")
    (tmp_path / "bob" / "bob_0002.png").unlink()
    batch = FaceDataset(source, "none", PLAIN, 0).batch([2, 3])
    assert np.array_equal(batch.images[1].numpy(), source.image(5))
    assert batch.labels.tolist() == [0, 1]
    assert len(batch.unreadable) == 2
    assert "bob_0001.png" in batch.unreadable[0]
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="none of the 9 images can be read"):
        FaceDataset(source, "none", PLAIN, 0).batch([0])
