"""Images of other sizes: counted, reported, and refused where they are many."""

import numpy as np
import pytest
from face_files import write_image, write_people

from fusedface.data import SyntheticFaces, open_source, write_pack
from fusedface.data.sizes import LOOKED_AT, check_sizes, other_sizes


def test_nothing_is_said_where_all_have_the_size(tmp_path):
    source = open_source(write_people(tmp_path))
    assert check_sizes(source, (112, 112), "people", resize=False) is None


def test_they_are_counted_by_size(tmp_path):
    root = write_people(tmp_path)
    write_image(root / "ann" / "photo.jpg", size=(250, 250))
    write_image(root / "bob" / "photo.jpg", size=(250, 250))
    write_image(root / "bob" / "wide.png", size=(100, 300))
    write_image(root / "cyd" / "dot.png", size=(1, 1))
    (root / "cyd" / "broken.png").write_bytes(b"no image")  # is told elsewhere
    source = open_source(root)
    found = other_sizes(source, (112, 112))
    assert dict(found.others) == {(250, 250): 2, (100, 300): 1, (1, 1): 1}
    assert (found.num_looked_at, found.num_images) == (13, 14)
    with pytest.raises(ValueError, match=r"4 of 13 .* not 112x112 .*250x250: 2.*data.resize=true"):
        check_sizes(source, (112, 112), "people", resize=False)
    told = check_sizes(source, (112, 112), "people", resize=True)
    assert told is not None
    assert told.startswith("people: 4 of 13 images looked at are not 112x112 (250x250: 2, ")


def test_a_few_are_told_and_not_refused(tmp_path):
    root = write_people(tmp_path, images=7)
    write_image(root / "ann" / "photo.jpg", size=(250, 250))
    source = open_source(root)
    line = check_sizes(source, (112, 112), "people", resize=False)
    assert line == "people: 1 of 22 images are not 112x112 (250x250: 1); they are scaled"
    write_image(root / "bob" / "photo.jpg", size=(250, 250))
    with pytest.raises(ValueError, match="2 of 23 images"):
        check_sizes(open_source(root), (112, 112), "people", resize=False)


def test_packs_and_large_sources(tmp_path):
    write_pack(SyntheticFaces(4, 3, image_size=(64, 48)), tmp_path / "pack")
    found = other_sizes(open_source(tmp_path / "pack"), (112, 112))
    assert dict(found.others) == {(64, 48): 12}

    class Many:
        """More than are looked at; the last half has another size."""

        def __init__(self):
            self.seen = []
            self.files = [(tmp_path / f"{n}.png") for n in (112, 64)]
            for file, n in zip(self.files, (112, 64), strict=True):
                write_image(file, size=(n, n))

        def __len__(self):
            return 30_000

        def encoded(self, index):
            self.seen.append(index)
            return self.files[index >= 15_000].read_bytes()

        def describe(self, index):
            return str(index)

    many = Many()
    found = other_sizes(many, (112, 112))
    assert len(many.seen) == LOOKED_AT
    assert (many.seen[0], many.seen[-1]) == (0, 29_999)
    assert np.diff(many.seen).max() <= 31
    assert dict(found.others) == {(64, 64): LOOKED_AT // 2}
    assert "of 1,000 images looked at" in str(found)
