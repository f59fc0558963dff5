"""Preprocessing: values, crops, and its form in files."""

import json

import pytest
import torch

from fusedface.models import Preprocessing


def _images(num: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, height, width, 3), generator=generator, dtype=torch.uint8)


def test_default_maps_grey_levels_to_minus_one_to_one():
    images = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 112, 56)
    tensor = Preprocessing().images_to_tensor(images[..., None].expand(1, 112, 112, 3))
    assert tensor.shape == (1, 3, 112, 112)
    assert tensor.dtype == torch.float32
    assert tensor.unique().tolist() == [-1.0, 1.0]


def test_each_channel_has_its_own_mean_and_std():
    mean, std = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
    images = _images(2, 8, 6)
    tensor = Preprocessing(mean, std, input_size=(8, 6)).images_to_tensor(images)
    for b, c, row, column in [(0, 0, 0, 0), (1, 1, 3, 5), (1, 2, 7, 2)]:
        expected = (images[b, row, column, c].item() - mean[c]) / std[c]
        assert tensor[b, c, row, column].item() == pytest.approx(expected)


def test_center_crop_of_an_aligned_face_keeps_columns_8_to_103():
    images = torch.arange(112, dtype=torch.uint8)[None, None, :, None].expand(1, 112, 112, 3)
    crop = Preprocessing((0.0,) * 3, (1.0,) * 3, input_size=(112, 96), crop="center")
    columns = crop.images_to_tensor(images)[0, 0, 0]
    assert columns.tolist() == list(range(8, 104))


def test_center_crop_leaves_images_of_the_right_size():
    images = _images(1, 112, 96)
    whole = Preprocessing(input_size=(112, 96)).images_to_tensor(images)
    assert torch.equal(
        whole, Preprocessing(input_size=(112, 96), crop="center").images_to_tensor(images)
    )


@pytest.mark.parametrize(
    ("crop", "rule"), [("none", "exactly 112x96"), ("center", "at least 112x96")]
)
def test_wrong_image_size_is_refused(crop, rule):
    with pytest.raises(ValueError, match=f"{rule}.*got 96x112"):
        Preprocessing(input_size=(112, 96), crop=crop).images_to_tensor(_images(1, 96, 112))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 112, 112, 3),
        _images(1, 112, 112)[0],
        _images(1, 112, 112).permute(0, 3, 1, 2),
    ],
    ids=["float", "no batch", "channels first"],
)
def test_other_than_uint8_rgb_batches_are_refused(images):
    with pytest.raises(ValueError, match=r"images must be uint8 \(B, H, W, 3\), got"):
        Preprocessing().images_to_tensor(images)


def test_dictionary_round_trip_through_json():
    original = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (112, 96), "concat", "center")
    assert Preprocessing.from_dict(json.loads(json.dumps(original.as_dict()))) == original
    assert Preprocessing.from_dict({}) == Preprocessing()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("std", (1.0, 0.0, 1.0)),
        ("std", (1.0, float("nan"), 1.0)),
        ("mean", (1.0, 2.0)),
        ("input_size", (112,)),
        ("input_size", (0, 112)),
        ("flip", "mean"),
        ("crop", "left"),
    ],
)
def test_bad_fields_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        Preprocessing(**{field: value})
    with pytest.raises(ValueError, match=field):
        Preprocessing.from_dict({field: value})


def test_malformed_dictionaries_are_refused():
    with pytest.raises(ValueError, match="no field 'means'"):
        Preprocessing.from_dict({"means": [0, 0, 0]})
    with pytest.raises(ValueError, match="malformed"):
        Preprocessing.from_dict({"std": None})
