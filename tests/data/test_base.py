"""What every source offers without saying so, and what parts of a source hand on."""

import io
import pickle

import numpy as np
import pytest
from face_files import write_people
from PIL import Image

from fusedface.data import (
    FaceSource,
    SomeIdentities,
    SomeImages,
    SyntheticFaces,
    UnreadableImage,
    open_source,
    read_batches,
    write_pack,
)


class Flat(FaceSource):
    """Five images of one grey each; only what has no default is said."""

    class_names = ("ann", "bob", "cyd")
    labels = np.array([0, 1, 2, 1, 0])

    def image(self, index):
        return np.full((8, 6, 3), 40 * index, np.uint8)

    def describe(self, index):
        return f"grey {index}"


def test_what_a_source_need_not_say():
    source = Flat()
    assert (len(source), source.num_classes, source.notes, source.folder()) == (5, 3, (), None)
    assert source.identities is source.labels
    assert source.people() == set()
    assert list(source.files()) == []
    assert [image[0, 0, 0] for image in source.read([4, 1])] == [160, 40]
    with Image.open(io.BytesIO(source.encoded(3))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), source.image(3))


def test_what_a_source_must_say():
    class Silent(FaceSource):
        class_names, labels = ("a", "b"), np.array([0, 1])

    with pytest.raises(TypeError, match="abstract"):
        Silent()


def test_some_identities_hand_on_what_their_source_offers(tmp_path):
    source = open_source(write_people(tmp_path))
    some = SomeIdentities(source, [2, 0])
    assert some.class_names == ["cyd", "ann"]
    assert some.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert some.identities.tolist() == [0, 0, 0, 2, 2, 2]
    assert list(some.files()) == [source.path(i) for i in (0, 1, 2, 6, 7, 8)]
    assert list(SomeImages(some, np.array([5, 0])).files([0])) == [source.path(8)]
    write_pack(source, tmp_path / "pack")
    pack = SomeIdentities(open_source(tmp_path / "pack"), [1, 2])
    assert [path.name for path in pack.files()] == ["train.rec", "train.idx"]
    assert (some.people(), some.folder()) == ({"ann", "cyd"}, tmp_path)
    assert some.encoded(4) == source.path(7).read_bytes()  # as stored, not encoded again
    for image, index in zip(some.read([0, 5]), (0, 8), strict=True):
        assert np.array_equal(image, source.image(index))
    again = pickle.loads(pickle.dumps(some))  # to a worker process
    assert np.array_equal(again.image(5), source.image(8))


def test_generated_identities_are_the_true_ones_in_every_part():
    source = SyntheticFaces(6, 4, image_size=(16, 16), label_noise=0.5, seed=1)
    true = np.repeat(np.arange(6), 4)
    assert (source.labels != true).any()
    assert np.array_equal(source.identities, true)
    assert np.array_equal(SomeImages(source, np.array([9, 1])).identities, [2, 0])
    some = SomeIdentities(source, [1, 3])
    assert np.array_equal(some.identities, true[some.indices])


@pytest.mark.parametrize("kind", ["generated", "folder", "pack", "some", "pairs"])
def test_batches_are_the_images_in_their_order(tmp_path, kind):
    source = SyntheticFaces(3, 3, image_size=(32, 32))
    if kind in ("folder", "some"):
        source = open_source(write_people(tmp_path))
    if kind == "pack":
        write_pack(source, tmp_path / "pack")
        source = open_source(tmp_path / "pack")
    if kind == "some":
        source = SomeIdentities(source, [0, 2])
    if kind == "pairs":
        source = SomeImages(source, np.array([5, 3, 8, 0]))
    size = source.image(0).shape[:2]
    batches = list(read_batches(source, size, 4))
    assert [len(batch) for batch in batches] == [4] * (len(source) // 4) + [len(source) % 4] * (
        len(source) % 4 > 0
    )
    expected = np.stack([source.image(i) for i in range(len(source))])
    assert np.array_equal(np.concatenate(batches), expected)
    assert next(read_batches(source, (16, 24), 2)).shape == (2, 16, 24, 3)


def test_no_image_of_a_batch_is_replaced(tmp_path):
    source = open_source(write_people(tmp_path))
    source.path(4).write_bytes(b"broken")
    with pytest.raises(UnreadableImage, match=r"bob_0002\.png"):
        list(read_batches(source, (112, 112), 4))
