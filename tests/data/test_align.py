"""Alignment against closed forms: a similarity that is applied to points is found again."""

import numpy as np
import pytest
from face_files import write_image
from PIL import Image

from fusedface.data.align import TEMPLATE, align, align_folder, read_landmarks, similarity, template
from fusedface.data.sources.images import UnreadableImage, read_image


def moved(points, angle, scale, shift):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + shift


def test_the_template_is_the_published_one():
    """insightface, python-package/insightface/utils/face_align.py, arcface_dst; its sizes too."""
    published = [
        [38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366],
        [41.5493, 92.3655], [70.7299, 92.2041],
    ]  # fmt: skip
    assert template(112).tolist() == published
    assert np.allclose(template(224), 2 * np.array(published), rtol=0, atol=1e-12)
    moved_right = np.array(published) + np.array([8.0, 0.0])
    assert np.allclose(template(128), moved_right, rtol=0, atol=1e-12)
    assert np.allclose(template(256), 2 * moved_right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.4, 3.0, -1.6])
def test_a_similarity_is_found_again(angle):
    source = np.array([(10.0, 20.0), (60.0, 25.0), (33.0, 50.0), (15.0, 70.0), (50.0, 77.0)])
    target = moved(source, angle, 1.7, (5.0, -40.0))
    c, s = 1.7 * np.cos(angle), 1.7 * np.sin(angle)
    assert np.allclose(similarity(source, target), [[c, -s, 5.0], [s, c, -40.0]])


def test_the_fit_is_the_best_of_all_similarities():
    """Against least squares over a, b, x, y of [[a, -b, x], [b, a, y]], which is linear."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        source, target = rng.normal(size=(2, 5, 2)) * 30
        x, y = source.T
        one, zero = np.ones(5), np.zeros(5)
        rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
        a, b, tx, ty = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)[0]
        assert np.allclose(similarity(source, target), [[a, -b, tx], [b, a, ty]])


def test_templates():
    assert np.array_equal(template(112), TEMPLATE)
    assert np.allclose(template(224), 2 * TEMPLATE)
    assert np.allclose(template(128)[0], (46.2946, 51.6963))
    assert np.allclose(template(256)[0], (92.5892, 103.3926))
    with pytest.raises(ValueError, match="multiple of 112 or 128 pixels a side, got 100"):
        template(100)


def test_an_aligned_image_stays_and_a_shifted_one_comes_back():
    pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    face = rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert np.array_equal(align(face, TEMPLATE), face)
    photo = np.zeros((200, 300, 3), np.uint8)
    photo[40:152, 90:202] = face
    assert np.array_equal(align(photo, TEMPLATE + np.array([90, 40])), face)
    turned = np.ascontiguousarray(np.rot90(face, 2))  # x -> 111 - x, y -> 111 - y
    assert np.array_equal(align(turned, 111 - TEMPLATE), face)
    assert (align(photo, TEMPLATE - np.array([500, 0])) == 0).all()  # outside


def test_folder(tmp_path):
    pytest.importorskip("cv2")
    pixels = write_image(tmp_path / "in" / "ann" / "1.png", size=(112, 112))
    write_image(tmp_path / "in" / "bob" / "1.jpg", size=(300, 200))
    numbers = ",".join(f"{v:.4f}" for v in TEMPLATE.ravel())
    (tmp_path / "points.csv").write_text(
        f"path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\nann/1.png,{numbers}\nbob/1.jpg,{numbers}\n"
        f"bob/2.jpg,{numbers}\n"
    )
    faces = read_landmarks(tmp_path / "points.csv", tmp_path / "in")
    with pytest.raises(UnreadableImage, match=r"2\.jpg: No such file"):
        align_folder(tmp_path / "in", faces, tmp_path / "strict")
    written = align_folder(tmp_path / "in", faces, tmp_path / "out", skip_bad=True)
    assert (written.num_images, len(written.skipped)) == (2, 1)
    assert np.array_equal(read_image(tmp_path / "out" / "ann" / "1.png"), pixels)
    with Image.open(tmp_path / "out" / "bob" / "1.jpg") as image:
        assert (image.size, image.format) == ((112, 112), "JPEG")
    with pytest.raises(ValueError, match=r"points\.csv:2: .* exists already"):
        align_folder(tmp_path / "in", faces, tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["lists no faces"]),
        ("a.png,1,2,3", ["points.csv:1", "expected path,x1", "'a.png,1,2,3'"]),
        ("a.png" + ",nan" * 10, ["points.csv:1", "expected path"]),
        ("a.png" + ",1" * 11, ["points.csv:1", "expected path"]),
        ("a.exe" + ",1" * 10, ["points.csv:1", "must end in one of"]),
        ("../a.png" + ",1" * 10, ["points.csv:1", "leads out"]),
        ("a.png" + ",1" * 10, ["points.csv:1", "the landmarks coincide"]),
    ],
)
def test_bad_landmarks_are_refused(tmp_path, line, words):
    pytest.importorskip("cv2")
    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "points.csv").write_text(line)
    with pytest.raises(ValueError, match=r"points\.csv") as error:
        align_folder(
            tmp_path / "in",
            read_landmarks(tmp_path / "points.csv", tmp_path / "in"),
            tmp_path / "out",
        )
    assert all(word in str(error.value) for word in words), str(error.value)
