"""Batched augmentation against what each choice means for one image."""

import numpy as np
import pytest
import torch

from fusedface.bench.batched import LUMA, Choices, _color_matrix, apply, choose

IMAGES = torch.randint(
    0, 256, (4, 3, 16, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)
ONE = torch.ones(4)
KEPT = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(4, 1, 1)


def choices(affine=KEPT, brightness=ONE, contrast=ONE, saturation=ONE, angle=0 * ONE):
    return Choices(affine, _color_matrix(brightness, saturation, angle), contrast)


def test_nothing_and_mirroring():
    assert torch.equal(apply(IMAGES, choices()), IMAGES)
    mirror = KEPT * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.equal(apply(IMAGES, choices(mirror)), IMAGES.flip(3))


def test_a_crop_is_scaled_back_up():
    """The upper left quarter: output pixel i lies at (i + 1/2) / 2 - 1/2 of the input."""
    quarter = torch.tensor([[0.5, 0, -0.5], [0, 0.5, -0.5]]).repeat(4, 1, 1)
    got = apply(IMAGES, choices(quarter)).numpy().astype(float)
    whole = IMAGES.numpy().astype(float)

    def at(values, count, axis):
        where = ((np.arange(count) + 0.5) / 2 - 0.5).clip(0)
        low = where.astype(int)
        high, share = low + 1, where - low
        shape = [-1 if i == axis else 1 for i in range(4)]
        share = share.reshape(shape)
        return values.take(low, axis) * (1 - share) + values.take(high, axis) * share

    assert np.abs(got - at(at(whole, 16, 2), 12, 3)).max() <= 0.51


def test_colors():
    whole = IMAGES.float()
    half = apply(IMAGES, choices(brightness=0.5 * ONE)).float()
    assert (half - whole / 2).abs().max() <= 0.51
    luma = torch.einsum("j,bjhw->bhw", torch.tensor(LUMA), whole)
    grey = apply(IMAGES, choices(saturation=0 * ONE)).float()
    assert (grey - luma[:, None]).abs().max() <= 1.0
    mean = luma.mean(dim=(1, 2))[:, None, None, None]
    flat = apply(IMAGES, choices(contrast=0.7 * ONE)).float()
    assert (flat - (mean + 0.7 * (whole - mean))).abs().max() <= 1.0
    turned = torch.einsum("bij,bjhw->bihw", _color_matrix(ONE, ONE, 1.0 * ONE), whole)
    assert (torch.einsum("j,bjhw->bhw", torch.tensor(LUMA), turned) - luma).abs().max() < 0.1


def test_choices_stay_in_their_ranges_and_repeat():
    drawn = choose(2000, torch.Generator().manual_seed(1))
    again = choose(2000, torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    width, height = drawn.affine[:, 0, 0].abs(), drawn.affine[:, 1, 1]
    assert (width * height).min() > 0.8 * 0.95  # a side that would pass the edge is cut
    assert (width.maximum(height) <= 1).all()
    x, y = drawn.affine[:, 0, 2].abs(), drawn.affine[:, 1, 2].abs()
    assert (x + width <= 1 + 1e-6).all()
    assert (y + height <= 1 + 1e-6).all()
    assert (drawn.affine[:, 0, 0] < 0).float().mean() == pytest.approx(0.5, abs=0.05)
    assert (width * height < 0.9999).float().mean() == pytest.approx(0.5, abs=0.05)
    assert (drawn.contrast != 1).float().mean() == pytest.approx(0.5, abs=0.05)
