"""A run with a teacher: its losses, its class centres, its cache, and what is refused by name."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_readers import onnx_network
from rich.console import Console
from starting_points import write_checkpoint
from tiny_run import SIZE, checkpoint_at, same, tiny_recipe

from fusedface.kernels import ArcFace
from fusedface.models import MarginHead, build_from_checkpoint
from fusedface.recipes.configuration.own_files import with_teacher
from fusedface.recipes.configuration.settings import from_dict, override, to_dict
from fusedface.recipes.configuration.teacher import TeacherOptions
from fusedface.recipes.evaluation.recognisers import open_recogniser
from fusedface.recipes.report.curves import plot_curves
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training import distillation, trainer
from fusedface.recipes.training.distillation import Distiller, move_centres
from fusedface.recipes.training.teacher import open_teacher

pytestmark = pytest.mark.usefixtures("short_networks")

DIM = 16


class StopError(Exception):
    """As if the process had been killed."""


def write_network(path, *, dim=DIM, size=(SIZE, SIZE)):
    """A checkpoint of a network none of whose tensors is as drawn, with its own mean and deviation."""
    network = {"embedding_dim": dim, "input_size": size, "width": 0.25}
    return write_checkpoint(path, network=network)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("teacher") / "teacher.pt")


def learn(faces, network, out, *settings, console=None, **options):
    recipe = override(with_teacher(tiny_recipe(faces), network), settings)
    run_recipe(recipe, out, device="cpu", console=console or Console(quiet=True), **options)


def teacher_of(network, **changes):
    recipe = with_teacher(tiny_recipe(Path()), network)
    return open_teacher(replace(recipe.teacher, **changes), torch.device("cpu"), open_recogniser)


def random_images(count, size=SIZE):
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("method", ["cosine", "relational"])
def test_a_student_that_is_its_teacher_has_no_loss(network, method):
    model, images = build_from_checkpoint(network), random_images(5)
    distiller = Distiller(teacher_of(network), TeacherOptions(method=method, weight=64.0), DIM)
    head = MarginHead(DIM, 3, ArcFace())
    with torch.no_grad():
        embeddings = 7.0 * model(model.preprocessing.images_to_tensor(images))
    lesson = distiller.teach(images, embeddings, torch.zeros(5, dtype=torch.int64), head)
    assert abs(lesson.loss) < 1e-3
    if method == "cosine":
        torch.testing.assert_close(lesson.cosine, torch.tensor(1.0))


def test_losses_and_gradients_in_float64(network, monkeypatch):
    """Against the formulas, entry by entry; and by finite differences."""
    teacher, images = teacher_of(network), random_images(6)
    fixed = teacher.embed(images).double()
    taught = fixed.numpy()
    monkeypatch.setattr(teacher, "embed", lambda _: fixed)
    x = torch.randn(6, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    units = x.detach().numpy() / np.linalg.norm(x.detach().numpy(), axis=1, keepdims=True)
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    expected = {
        "cosine": np.mean([1 - units[i] @ taught[i] for i in range(6)]),
        "relational": np.mean(
            [(units[i] @ units[j] - taught[i] @ taught[j]) ** 2 for i, j in pairs]
        ),
    }
    labels, head = torch.zeros(6, dtype=torch.int64), MarginHead(DIM, 3, ArcFace())
    for method, value in expected.items():
        distiller = Distiller(teacher, TeacherOptions(method=method, weight=2.0), DIM)

        def loss(x, distiller=distiller):
            return distiller.teach(images, x, labels, head).loss

        assert loss(x).item() == pytest.approx(2 * value, rel=1e-5)
        assert torch.autograd.gradcheck(loss, (x,))


def test_relations_keep_float32_under_autocast():
    """A student near its teacher has a loss of differences that bfloat16 does not hold."""
    generator = torch.Generator().manual_seed(0)
    taught = torch.randn(8, 16, generator=generator)
    x = taught + 0.01 * torch.randn(8, 16, generator=generator)
    expected = distillation.relational_loss(x.double(), taught.double()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert distillation.relational_loss(x, taught).item() == pytest.approx(expected, rel=1e-3)


def test_relations_of_one_image_are_none():
    x = torch.randn(1, 4, requires_grad=True)
    loss = distillation.relational_loss(x, torch.randn(1, 9))
    loss.backward()
    assert loss == 0.0
    assert torch.equal(x.grad, torch.zeros_like(x))


def moved_by_the_equations(centres, taught, labels, cosines, *, hard_samples):
    """AdaDistill image by image, in float64; images of one person see the same centre, and are averaged."""
    moved = centres.copy()
    for person in sorted(set(labels)):
        w, proposals = centres[person], []
        for y, label, cosine in zip(taught, labels, cosines, strict=True):
            if label == person:
                alpha = max(0.0, cosine)
                if hard_samples:
                    alpha *= max(0.0, w @ y / (np.linalg.norm(w) * np.linalg.norm(y)))
                proposals.append(alpha * w + (1 - alpha) * y)
        moved[person] = np.mean(proposals, axis=0)
    return moved


@pytest.mark.parametrize("hard_samples", [True, False])
def test_centres_move_as_the_equations_of_adadistill_say(hard_samples):
    """Over several steps; with students and centres on either side of a right angle to the teacher."""
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(5, 3))
    centres = torch.tensor(expected)
    for _ in range(4):
        taught, labels = rng.normal(size=(12, 3)), rng.integers(0, 4, 12)
        taught /= np.linalg.norm(taught, axis=1, keepdims=True)
        cosines = rng.uniform(-0.5, 1.0, 12)
        assert (np.einsum("bd,bd->b", expected[labels], taught) < 0).any()
        expected = moved_by_the_equations(
            expected, taught, labels, cosines, hard_samples=hard_samples
        )
        arrays = map(torch.tensor, (taught, labels, cosines))
        move_centres(centres, *arrays, hard_samples=hard_samples)
    np.testing.assert_allclose(centres.numpy(), expected, rtol=1e-12)


def test_hard_samples_move_a_centre_more():
    """Of two images that the student knows equally well, the one far from the centre counts more."""
    centre = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    near, far = torch.tensor([[0.8, 0.6]]), torch.tensor([[0.6, 0.8]])
    for label, y in enumerate((near, far)):
        move_centres(centre, y, torch.tensor([label]), torch.tensor([0.5]))
    # a = 0.5 cos(w, y): 0.4 and 0.3 of the old centre are kept.
    torch.testing.assert_close(centre, torch.tensor([[0.88, 0.36], [0.72, 0.56]]))


def test_centres_are_the_average_that_the_closed_form_says():
    """Without hard samples, after n steps w = a_n ... a_1 w_0 + sum_k a_n ... a_(k+1) (1 - a_k) y_k."""
    rng = np.random.default_rng(0)
    centres, taught = rng.normal(size=(4, 5)), rng.normal(size=(3, 5))
    a = [0.25, 0.0, 0.75]
    moved = torch.tensor(centres)
    for k, cosine in enumerate((0.25, -0.5, 0.75)):
        step = torch.tensor(taught[k : k + 1]), torch.tensor([2]), torch.tensor([cosine])
        move_centres(moved, *step, hard_samples=False)
    expected = a[0] * a[1] * a[2] * centres[2]
    for k in range(3):
        expected = expected + np.prod(a[k + 1 :]) * (1 - a[k]) * taught[k]
    np.testing.assert_allclose(moved[2].numpy(), expected, rtol=1e-12)
    assert np.array_equal(moved[[0, 1, 3]].numpy(), centres[[0, 1, 3]])


def test_centres_of_the_teacher_get_no_gradient(faces, network, tmp_path):
    learn(faces, network, tmp_path / "run", "teacher.method=adadistill")
    saved = checkpoint_at(tmp_path / "run", 12)
    assert not [
        s for s in saved["optimizer"]["state"].values() if s["momentum_buffer"].shape == (6, 16)
    ]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert {line["grad_norm_head"] for line in trained} == {0.0}
    assert all("teacher_cosine" in line and "distillation_loss" not in line for line in trained)


@pytest.mark.parametrize(
    "settings",
    [
        ("teacher.method=cosine",),
        ("teacher.method=relational", "optim.kind=adamw"),
        ("teacher.method=adadistill", "data.augmentation=none"),
        ("teacher.projection=true", "backbone.embedding_dim=8"),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(faces, network, tmp_path, monkeypatch, settings):
    cached = (*settings, f"teacher.cache={tmp_path / 'cache'}")
    learn(faces, network, tmp_path / "whole", *settings)
    step = trainer.Trainer._train_step

    def stop(self, *batch):
        if self.progress.step == 7:
            raise StopError
        step(self, *batch)

    monkeypatch.setattr(trainer.Trainer, "_train_step", stop)
    with pytest.raises(StopError):
        learn(faces, network, tmp_path / "run", *cached)
    monkeypatch.undo()
    learn(faces, network, tmp_path / "run", *cached, resume=True)
    whole, run = checkpoint_at(tmp_path / "whole", 12), checkpoint_at(tmp_path / "run", 12)
    for entry in ("model", "head", "distiller"):
        assert same(run[entry], whole[entry]), entry


def test_a_cache_holds_just_what_the_network_computes(network, tmp_path):
    """Whichever images were missing together; also for another teacher object, and with every row there."""
    images, plain = random_images(40), teacher_of(network)
    expected = plain.embed(images)
    first = teacher_of(network, cache=str(tmp_path / "c"))
    assert torch.equal(first.embed(images[:7]), expected[:7])
    assert torch.equal(first.embed(images), expected)
    again = teacher_of(network, cache=str(tmp_path / "c"))
    again.network.features = None  # nothing is computed
    assert torch.equal(again.embed(images.flip(0)), expected.flip(0))
    (file,) = (tmp_path / "c").iterdir()
    assert file.stat().st_size == 256 + 40 * (24 + 4 * DIM)
    # The other order of channels has a file of its own.
    other = teacher_of(network, cache=str(tmp_path / "c"), bgr=True)
    assert not torch.equal(other.embed(images), expected)
    assert len([*(tmp_path / "c").iterdir()]) == 2


def test_two_writers_of_a_cache(network, tmp_path):
    images = random_images(6)
    one, two = (teacher_of(network, cache=str(tmp_path)) for _ in range(2))
    expected = teacher_of(network).embed(images)
    for part, writer in ((slice(0, 3), one), (slice(2, 5), two), (slice(1, 6), one)):
        assert torch.equal(writer.embed(images[part]), expected[part])
    assert torch.equal(teacher_of(network, cache=str(tmp_path)).embed(images), expected)


def damage(path, at, data):
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


def test_damaged_caches_are_named(network, tmp_path):
    images = random_images(4)
    teacher_of(network, cache=str(tmp_path)).embed(images)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    damage(file, 256 + 24 + 3, b"\x99")
    with pytest.raises(ValueError, match=rf"{file.name} is damaged.*\(row 0\); remove it"):
        teacher_of(network, cache=str(tmp_path)).embed(images)
    for broken in (b"x", b"mine" + whole[:100], b"{" + whole):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"{file.name} is damaged"):
            teacher_of(network, cache=str(tmp_path))
    with pytest.raises(ValueError, match=r"teacher\.cache must be a folder"):
        teacher_of(network, cache=str(file))
    for size in (0, 100, 255, len(whole) - 30):  # a full disk: the missing rows are computed again
        file.write_bytes(whole[:size])
        again = teacher_of(network, cache=str(tmp_path)).embed(images)
        assert torch.equal(again, teacher_of(network).embed(images))
        assert file.read_bytes() == whole


def test_student_and_teacher_of_other_sizes_and_lengths(faces, tmp_path):
    """48x32 in place of 32x32, and 24 numbers in place of 16."""
    network = write_network(tmp_path / "t.pt", dim=24, size=(48, 48))
    for name, setting in (
        ("relational", "teacher.method=relational"),
        ("map", "teacher.projection=true"),
    ):
        learn(faces, network, tmp_path / name, setting, "schedule.steps=3")
    assert checkpoint_at(tmp_path / "map", 3)["distiller"]["projection.weight"].shape == (24, 16)
    for method in ("cosine", "adadistill"):
        message = "embeddings have 24 numbers, the student's 16: set backbone.embedding_dim=24"
        with pytest.raises(ValueError, match=message):
            learn(faces, network, tmp_path / "no", f"teacher.method={method}")
    assert not (tmp_path / "no").exists()


def test_an_onnx_file_teaches(faces, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    (tmp_path / "t.onnx").write_bytes(onnx_network())
    learn(
        faces,
        tmp_path / "t.onnx",
        tmp_path / "run",
        "teacher.method=relational",
        "schedule.steps=3",
    )
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="reading ONNX files needs onnxruntime; install with"):
        learn(faces, tmp_path / "t.onnx", tmp_path / "no")


def test_files_that_cannot_teach(faces, network, tmp_path, monkeypatch):
    mine = tmp_path / "mine.pt"
    with pytest.raises(ValueError, match=r"cannot read .*mine\.pt"):
        with_teacher(tiny_recipe(faces), mine)
    shutil.copy(network, mine)
    recipe = with_teacher(tiny_recipe(faces), mine)
    quiet = {"device": "cpu", "console": Console(quiet=True)}
    monkeypatch.setattr(trainer.Trainer, "_train_epoch", lambda *_: "SIGTERM")
    run_recipe(recipe, tmp_path / "run", **quiet)
    damage(mine, 200, b"damaged")
    with pytest.raises(ValueError, match=r"teacher .*mine\.pt has changed: .* SHA-256"):
        run_recipe(recipe, tmp_path / "out", **quiet)
    with pytest.raises(ValueError, match=r"mine\.pt"):  # by its new hash, but it cannot be read
        run_recipe(with_teacher(recipe, mine), tmp_path / "out", **quiet)
    mine.unlink()
    with pytest.raises(
        ValueError, match=r"mine\.pt.*a run with a teacher needs its file until the end"
    ):
        run_recipe(recipe, tmp_path / "run", resume=True, **quiet)
    assert not (tmp_path / "out").exists()


def test_what_does_not_go_together(network):
    recipe = with_teacher(tiny_recipe(Path()), network)
    assert from_dict(to_dict(recipe)) == recipe
    for setting, message in (
        ("teacher.method=cosin", "did you mean 'cosine'"),
        ("teacher.weight=0", "teacher.weight must be positive"),
        ("teacher.sha256=none", "--teacher FILE fills in both"),
        ("teacher.sha256=abc", "64 hexadecimal digits"),
        ("teacher.cache=", "teacher.cache must be a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            override(recipe, [setting])
    with pytest.raises(
        ValueError, match=r"teacher\.projection must be false for method 'relational'"
    ):
        override(recipe, ["teacher.projection=true", "teacher.method=relational"])
    with pytest.raises(ValueError, match="settings of a teacher and none: name it by --teacher"):
        open_teacher(TeacherOptions(method="adadistill"), torch.device("cpu"), open_recogniser)
    for setting in ("train.freeze=2", "optim.fuse_centres=true", "head.sample_rate=0.5"):
        key = setting.partition("=")[0]
        with pytest.raises(ValueError, match=rf"{key} must be .* with teacher.method 'adadistill'"):
            override(recipe, ["teacher.method=adadistill", setting])


def test_a_lesson_is_shown_logged_and_drawn(faces, network, tmp_path):
    stream = io.StringIO()
    learn(faces, network, tmp_path / "run", console=Console(file=stream, width=400))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    for line in lines:
        if line["kind"] == "train":
            expected = 64.0 * (1.0 - line["teacher_cosine"])
            assert line["distillation_loss"] == pytest.approx(expected, rel=1e-4)
    assert "teacher cosine" in stream.getvalue()
    plot_curves(tmp_path / "run")
    drawn = (tmp_path / "run" / "curves.svg").read_text("utf-8")
    assert "distillation loss" in drawn
