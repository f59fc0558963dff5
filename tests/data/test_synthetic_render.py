"""How generated faces are drawn: where, on which pixels, and how the camera degrades them."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fusedface.data import SyntheticFaces
from fusedface.data.synthetic import frame, parameters, pose
from fusedface.data.synthetic.frame import SHIFT, Box, Frame
from fusedface.data.synthetic.hashing import uniforms
from fusedface.data.synthetic.nuisance import smooth
from fusedface.data.synthetic.occlusions import GLASSES_SHARE
from fusedface.data.synthetic.parameters import CONDITIONS, conditions
from fusedface.data.synthetic.pose import Pose


def render(size=(112, 112), count=96, **options) -> torch.Tensor:
    """One photo each of `count` people."""
    source = SyntheticFaces(count, 1, image_size=size, **options)
    return source.render(torch.arange(count))


@pytest.mark.parametrize("size", [(112, 112), (112, 96), (49, 37), (16, 16)], ids=str)
@pytest.mark.parametrize("extreme", [False, True], ids=["usual", "extreme"])
def test_features_are_never_cut_by_their_windows(monkeypatch, size, extreme):
    """Painted on the whole picture instead, every feature gives the same bytes."""
    if extreme:
        # Every trait and condition is at an end or in the middle, and windows fit tightly: they
        # need no room for roll, scale and shift.
        monkeypatch.setattr(parameters, "uniforms", ends_and_middles)
        for motion in ("ROLL", "SCALE", "SHIFT"):
            monkeypatch.setattr(pose, motion, 0.0)
            monkeypatch.setattr(frame, motion, 0.0)
    inside = render(size, difficulty=1.0, seed=3, count=200)
    monkeypatch.setattr(
        Frame, "pixels", lambda frame, _: (slice(0, frame.height), slice(0, frame.width))
    )
    assert torch.equal(render(size, difficulty=1.0, seed=3, count=200), inside)


def ends_and_middles(*arguments) -> torch.Tensor:
    """In place of uniform numbers in [0, 1): 0, 1/2 and almost 1."""
    return (uniforms(*arguments) * 3).floor().div(2).clamp(max=1.0 - 2.0**-53)


def test_windows_save_work():
    rows, columns = Frame(112, 112, 0.5).pixels(Box(0.1, -0.2, 0.5, 0.1))
    assert 20 < (rows.stop - rows.start) < 50
    assert 30 < (columns.stop - columns.start) < 60


def test_a_window_holds_its_box_under_every_pose():
    """The pixels of each photo whose coordinates lie in a box are in its window."""
    box, (height, width) = Box(-0.3, -0.6, 0.45, 0.2), (64, 48)
    people = torch.arange(300)
    scaled = conditions(0, people, people).scaled(dict.fromkeys(CONDITIONS, 0.8))
    x, y = Pose(scaled).grid(height, width)
    in_box = (x > box.left) & (x < box.right) & (y > box.top) & (y < box.bottom)
    rows, columns = Frame(height, width, 0.8).pixels(box)
    outside = torch.ones(height, width, dtype=torch.bool)
    outside[rows, columns] = False
    assert in_box.any(dim=0).sum() > 500
    assert not (in_box & outside).any()


@pytest.mark.parametrize("size", [(49, 37), (31, 31)], ids=str)
def test_odd_sizes_do_not_depend_on_the_batch_either(size):
    """Sides that are no multiple of a vector register leave remainders, which scalar code computes."""
    source = SyntheticFaces(60, 1, image_size=size, difficulty=1.0)
    parts = [
        SyntheticFaces(60, 1, image_size=size, difficulty=1.0).render(part)
        for part in torch.arange(60).split(7)
    ]
    assert torch.equal(torch.cat(parts), source.render(torch.arange(60)))


def test_another_process_draws_the_same_bytes():
    code = (
        "import hashlib, torch; from fusedface.data import SyntheticFaces; torch.set_num_threads(1);"
        "s = SyntheticFaces(9, 2, seed=5, difficulty=1.0);"
        "print(hashlib.sha256(s.render(torch.arange(17, -1, -1)).numpy().tobytes()).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    here = (
        SyntheticFaces(9, 2, seed=5, difficulty=1.0).render(torch.arange(18)).flip(0).contiguous()
    )
    assert there.stdout.strip() == hashlib.sha256(here.numpy().tobytes()).hexdigest()


def test_eyes_and_mouth_are_where_aligned_faces_have_them():
    """The template of aligned 112x112 faces: eyes (38.3, 51.7) and (73.5, 51.5), mouth (56, 92.3)."""
    mean = render(count=300, difficulty=0.0).float().mean(dim=(0, 3))  # [112, 112]
    for column, row in ((38.3, 51.7), (73.5, 51.5)):
        top, left = round(row) - 8, round(column) - 8
        at = int(mean[top : top + 17, left : left + 17].argmin())
        assert abs(top + at // 17 - row) < 3
        assert abs(left + at % 17 - column) < 3
    mouth = mean[80:105, 50:63].mean(dim=1)
    assert abs(80 + int(mouth.argmin()) - 92.3) < 3


def test_difficulty_zero_is_one_pose_and_no_occlusion():
    """Photos of a person then differ only around the head and by grain."""
    images = SyntheticFaces(12, 6, difficulty=0.0).render(torch.arange(72)).float()
    center = images.reshape(12, 6, 112, 112, 3)[:, :, 40:100, 40:72]
    assert center.std(dim=1).mean() < 4.0  # of 255
    assert center.mean(dim=1).std(dim=0).mean() > 20.0  # while people differ


def test_images_hold_what_faces_hold_on_any_platform():
    """Coarse figures: they notice a broken drawing, not another rounding."""
    images = render(count=200, difficulty=0.5).float() / 255
    assert images.mean().item() == pytest.approx(0.41, abs=0.03)
    assert images.std().item() == pytest.approx(0.18, abs=0.02)


def test_glasses_are_as_frequent_as_the_difficulty_says():
    people = torch.arange(4000)
    chance = 0.5 * (conditions(0, people, people).glasses.flatten() + 1.0)
    for difficulty in (0.3, 1.0):
        share = (chance < GLASSES_SHARE * difficulty).float().mean().item()
        assert share == pytest.approx(GLASSES_SHARE * difficulty, abs=0.03)


@pytest.mark.parametrize(("down", "across"), [(3, 3), (5, 5), (1, 7), (11, 1)])
def test_smooth_is_the_mean_over_a_window(down, across):
    picture = torch.rand(2, 3, 20, 17, generator=torch.Generator().manual_seed(0)).double()
    padding = (across // 2, across // 2, down // 2, down // 2)
    expected = F.avg_pool2d(F.pad(picture, padding, mode="replicate"), (down, across), stride=1)
    assert torch.allclose(smooth(picture, down, across), expected, atol=1e-12)


def test_shift_is_in_half_sides():
    """A photo shifted by the full range shows the face 9 % of half a side further right."""
    centered = conditions(0, torch.tensor([0]), torch.tensor([0])).scaled(
        dict.fromkeys(CONDITIONS, 0.0)
    )
    shifted = centered.values.clone()
    shifted[:, CONDITIONS.index("shift_x")] = 1.0
    moved = type(centered)(shifted, centered.numbers)
    x, _ = Pose(centered).grid(100, 100)
    shifted_x, _ = Pose(moved).grid(100, 100)
    assert np.allclose((x - shifted_x).numpy(), SHIFT, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_up_to_rounding():
    here = render(difficulty=1.0).int()
    there = render(difficulty=1.0, device="cuda").cpu().int()
    assert ((here - there).abs() <= 1).float().mean() > 0.999
