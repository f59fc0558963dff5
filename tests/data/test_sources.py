"""Folders and list files: what is found, and what is said about what is wrong."""

import os
import pickle

import numpy as np
import pytest
from face_files import write_image, write_people
from PIL import Image, features

from fusedface.data import FaceSource, UnreadableImage, open_source
from fusedface.data.gallery import face_files, read_gallery
from fusedface.data.sources.images import MAX_IMAGE_BYTES, MAX_PIXELS, image_size, read_image


def test_folder(tmp_path):
    source = open_source(write_people(tmp_path))
    assert isinstance(source, FaceSource)
    assert (len(source), source.num_classes, source.class_names) == (9, 3, ["ann", "bob", "cyd"])
    assert source.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert source.image(4).shape == (112, 112, 3)
    assert source.describe(4).endswith("bob_0002.png")
    again = pickle.loads(pickle.dumps(source))  # to a worker process
    assert np.array_equal(again.image(4), source.image(4))


def test_folder_leaves_what_is_no_image_of_a_person(tmp_path):
    write_people(tmp_path)
    (tmp_path / "notes.txt").write_text("no face")
    (tmp_path / "ann" / "Thumbs.db").write_text("no face")
    (tmp_path / "ann" / ".hidden.png").write_bytes(b"no face")
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / ".cache" / "x.png")
    write_image(tmp_path / "bob" / "deeper" / "UPPER.JPG")
    source = open_source(tmp_path)
    assert (len(source), source.num_classes) == (10, 3)


def test_hidden_folders_are_left(tmp_path):
    """File managers and notebooks keep small copies in them, which were read as more photos."""
    root = write_people(tmp_path / ".faces")
    for folder in (".thumbs", ".ipynb_checkpoints", "more/.trash/old"):
        write_image(root / "ann" / folder / "1.png")
    (root / "ann" / ".cache").mkdir()
    (root / "ann" / ".cache" / "clip.gif").touch()
    source = open_source(root)
    assert (len(source), source.notes) == (9, ())
    images, people = read_gallery(root)
    assert (len(images), people.count("ann")) == (9, 3)
    assert len(face_files([root])) == 9


def test_links_out_of_the_folder_are_left(tmp_path):
    write_people(tmp_path / "data")
    secret = tmp_path / "outside.png"
    write_image(secret)
    (tmp_path / "data" / "ann" / "link.png").symlink_to(secret)
    assert len(open_source(tmp_path / "data")) == 9


def test_list_file(tmp_path):
    write_people(tmp_path)
    write_image(tmp_path / "with space" / "a b.png")
    lines = [
        "# a comment",
        "",
        "ann/ann_0001.png 10",
        "bob/bob_0001.png 9",
        "with space/a b.png 10",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    source = open_source(tmp_path / "list.txt")
    assert source.labels.tolist() == [1, 0, 1]  # 9 before 10
    assert source.describe(2).endswith("a b.png")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ann/ann_0001.png", ["list.txt:1", "path label", "ann_0001"]),
        ("ann/ann_0001.png 0\n../secret.png 1", ["list.txt:2", "leads out"]),
        ("ann/ann_0001.png 0\n/etc/passwd 1", ["list.txt:2", "leads out"]),
        ("ann/ann_0001.png 0\nann/ann_0002.png 0", ["at least 2 identities", "found 1"]),
        ("", ["lists no images"]),
        ("a\0b.png 0\n", ["list.txt:1", "is not a path"]),
        ("loop/a.png 0\n", ["list.txt:1", "'loop/a.png'"]),
        ("away/ann_0001.png 0\n", ["list.txt:1", "leads out"]),
    ],
)
def test_bad_lists_are_refused(tmp_path, text, words):
    write_people(tmp_path / "faces")
    write_people(tmp_path / "elsewhere")
    (tmp_path / "faces" / "loop").symlink_to("loop")
    (tmp_path / "faces" / "away").symlink_to(tmp_path / "elsewhere" / "ann")
    (tmp_path / "faces" / "list.txt").write_text(text)
    with pytest.raises(ValueError, match="list") as error:
        open_source(tmp_path / "faces" / "list.txt")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no images"):
        open_source(tmp_path)
    write_people(tmp_path, names=("ann",))
    with pytest.raises(ValueError, match=r"at least 2 identities, found 1 \(only 'ann'\)"):
        open_source(tmp_path)
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir(exist_ok=True)
        for k in range(1, 4):
            (tmp_path / name / f"{name}_{k:04d}.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="none of 6 images tried can be read"):
        open_source(tmp_path)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00 1\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        open_source(tmp_path / "bytes.txt")


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_no_utf_8(tmp_path):
    write_people(tmp_path, names=("ann", "bob"))
    os.rename(tmp_path / "bob", os.fsencode(tmp_path) + b"/b\xffb")
    source = open_source(tmp_path)
    assert source.class_names == ["ann", "b\\udcffb"]
    assert source.image(4).shape == (112, 112, 3)
    (source.path(4)).write_bytes(b"")
    with pytest.raises(UnreadableImage, match="the file is empty") as error:
        source.image(4)
    str(error.value).encode("utf-8")  # can be printed


def test_no_decoder_but_those_for_faces(tmp_path):
    """An EPS file would be run by Ghostscript."""
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.jpg")
    with pytest.raises(UnreadableImage, match="not an image of a known kind"):
        read_image(tmp_path / "x.jpg")
    with pytest.raises(UnreadableImage, match="not a plain file"):
        read_image(tmp_path)
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    with pytest.raises(UnreadableImage, match="bytes are too many"):
        read_image(tmp_path / "large.jpg")


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".gif", "GIF"), (".tiff", "TIFF"), (".avif", "AVIF"), (".jp2", "JPEG 2000")],
)
def test_formats_that_are_not_read_are_named(tmp_path, suffix, kind):
    if suffix in (".avif", ".jp2") and not features.check(suffix[1:].replace("jp2", "jpg_2000")):
        pytest.skip("this Pillow cannot write them")
    for name in ("ann", "bob"):
        (tmp_path / "people" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "people" / name / f"1{suffix}")
    with pytest.raises(ValueError, match=f"holds no images .*it holds 2 {suffix} files"):
        open_source(tmp_path / "people")
    with pytest.raises(UnreadableImage, match=f"a {kind} file, which is not read"):
        read_image(tmp_path / "people" / "ann" / f"1{suffix}")  # whatever its name says
    (tmp_path / "people" / "ann" / f"1{suffix}").rename(tmp_path / "photo.jpg")
    with pytest.raises(UnreadableImage, match=f"a {kind} file, which is not read"):
        read_image(tmp_path / "photo.jpg")
    write_people(tmp_path / "people")
    assert any(
        f"left out 1 {suffix} files" in note for note in open_source(tmp_path / "people").notes
    )


@pytest.mark.parametrize(("suffix", "maximum"), [("png", 65535), ("pgm", 65535), ("pgm", 1023)])
def test_grey_in_16_bits(tmp_path, suffix, maximum):
    """The upper eight bits, as of colour in 16 bits; Pillow's own conversion cuts off at 255."""
    depth = np.linspace(0, maximum, 112 * 112).round().astype(np.uint16).reshape(112, 112)
    file = tmp_path / f"deep.{suffix}"
    if suffix == "png":
        Image.fromarray(depth).save(file)
    else:
        file.write_bytes(f"P5 112 112 {maximum}\n".encode() + depth.astype(">u2").tobytes())
    read = read_image(file)
    assert read.shape == (112, 112, 3)
    assert read.dtype == np.uint8
    expected = 255 * (depth.astype(np.float64) / maximum)
    assert np.abs(read - expected[:, :, None]).max() <= 1.0
    assert (read.min(), read.max()) == (0, 255)


def test_colour_in_16_bits_is_read_alike(tmp_path):
    cv2 = pytest.importorskip("cv2")
    depth = np.arange(112 * 112, dtype=np.uint16).reshape(112, 112) * 5
    cv2.imwrite(str(tmp_path / "grey.png"), depth)
    cv2.imwrite(str(tmp_path / "colour.png"), np.stack([depth] * 3, axis=-1))
    assert np.array_equal(read_image(tmp_path / "grey.png"), read_image(tmp_path / "colour.png"))


def test_floating_point_pixels_are_refused(tmp_path):
    (tmp_path / "x.ppm").write_bytes(b"Pf 2 2 -1.0\n" + np.ones(4, np.float32).tobytes())
    with pytest.raises(UnreadableImage, match="floating-point"):
        read_image(tmp_path / "x.ppm")


def test_sizes_by_the_header_are_those_of_the_pixels(tmp_path):
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        Image.new("RGB", (20, 30)).save(tmp_path / "x.jpg", exif=exif)
        data = (tmp_path / "x.jpg").read_bytes()
        assert image_size(data, "x") == read_image(tmp_path / "x.jpg").shape[:2]


def broken_files(folder):
    """Files that are no readable face crop, by why."""
    write_image(folder / "good.jpg")
    whole = (folder / "good.jpg").read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "header.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00" * 30)
    Image.new("1", (6000, 6000)).save(folder / "bomb.png")
    assert MAX_PIXELS < 6000 * 6000
    return {
        "empty.jpg": "empty", "text.jpg": "not an image", "truncated.jpg": "truncated",
        "header.png": ".", "bomb.png": "6000x6000 pixels are too many", "missing.jpg": "No such file",
    }  # fmt: skip


def test_unreadable_images_say_why(tmp_path):
    for name, reason in broken_files(tmp_path).items():
        with pytest.raises(UnreadableImage, match=reason) as error:
            read_image(tmp_path / name)
        assert error.value.path == str(tmp_path / name)
        again = pickle.loads(pickle.dumps(error.value))  # from a worker process
        assert (again.path, again.reason) == (error.value.path, error.value.reason)


def test_grey_transparent_and_turned_images(tmp_path):
    Image.new("L", (20, 30), 77).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png") == 77).all()
    assert read_image(tmp_path / "grey.png").shape == (30, 20, 3)
    Image.new("RGBA", (20, 30), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").shape == (30, 20, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (20, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (20, 30, 3)
