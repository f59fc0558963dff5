"""The comparison of exported files with PyTorch, on functions whose difference is known."""

import numpy as np
import pytest
from exported import unit

from fusedface.data import Images, PairList
from fusedface.recipes.export import check


class _Pairs(Images):
    """The images of 20 pairs, each image once."""

    def __init__(self, images):
        self.all = images

    def __len__(self):
        return len(self.all)

    def image(self, index):
        return self.all[index]

    def describe(self, index):
        return f"image {index}"


def _compare(other, flip="sum"):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(40, 4, 4, 3), dtype=np.uint8)
    same = np.arange(20) % 2 == 0
    pairs = PairList(_Pairs(images), np.arange(20), np.arange(20, 40), same, np.arange(20) % 5)
    weight = rng.normal(size=(48, 6))

    def embed(batch):
        return batch.reshape(len(batch), -1) @ weight

    runs = {check.PYTORCH: embed, "other": lambda batch: other(embed(batch))}
    return embed, images, check.compare(runs, {"list": pairs}, (4, 4), flip)


def test_comparison_is_of_embeddings_of_length_one_and_of_mirror_images_too():
    turned = np.linalg.qr(np.eye(6) + 0.1 * np.arange(36).reshape(6, 6) / 36)[0]
    embed, images, checks = _compare(lambda rows: 3 * rows @ turned)
    both = np.concatenate([images, images[:, :, ::-1]])
    expected, other = unit(embed(both)), unit(embed(both) @ turned)
    assert checks["other"].max_error == pytest.approx(np.abs(expected - other).max())
    assert checks["other"].min_cosine == pytest.approx((expected * other).sum(axis=1).min())
    # A rotation changes no cosine, so no figure either.
    assert checks["other"].results == checks[check.PYTORCH].results
    _, _, scaled = _compare(lambda rows: 3 * rows)
    assert scaled["other"].max_error < 1e-12


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_embeddings_that_are_no_numbers_are_refused(value):
    def spoil(rows):
        rows[-1, 3] = value
        return rows

    message = "'other': embeddings of list are not finite; nothing was written"
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        _compare(spoil)
