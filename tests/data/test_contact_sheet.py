"""The sheet of a source: its cells, and what stands in for images that cannot be read."""

import numpy as np
import pytest
from PIL import Image

from fusedface.data import FaceSource, UnreadableImage, contact_sheet


class TwoPeople(FaceSource):
    """Flat images, one of them unreadable."""

    class_names = ("ann", "a name that is far too long for its place")
    labels = np.array([0, 1, 0, 1, 1])

    def image(self, index):
        if index == 2:
            raise UnreadableImage("two.png", "broken")
        return np.full((40, 30, 3), 40 * index, dtype=np.uint8)

    def describe(self, index):
        return str(index)


def test_rows_are_people_and_broken_images_are_red(tmp_path):
    contact_sheet(
        TwoPeople(), tmp_path / "sheet.png", num_identities=5, images_per_identity=2, cell=(20, 20)
    )
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (2 * 24 + 4, 110 + 2 * 24 + 4, 3)
    assert (pixels[4:24, 110:130] == 0).all()  # ann, image 0
    assert (pixels[4:24, 134:154] == (220, 120, 120)).all()  # ann, image 2
    assert (pixels[28:48, 110:130] == 40).all()  # the other, image 1
    assert (pixels[28:48, 134:154] == 120).all()  # image 3; image 4 has no place
    assert (pixels[:, 155:] == 255).all()


@pytest.mark.parametrize(("rows", "columns"), [(100_000, 8), (8, 100_000), (0, 8), (8, -1)])
def test_sheets_that_no_picture_holds_are_refused(tmp_path, rows, columns):
    with pytest.raises(ValueError, match=r"a sheet has 1 to 64 .*, got"):
        contact_sheet(
            TwoPeople(), tmp_path / "x.png", num_identities=rows, images_per_identity=columns
        )
