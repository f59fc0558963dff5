"""Exports: files compute what PyTorch does, InsightFace's rules fit them, or they are not written."""

import io
import json
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import EXACT, SIZE, by_insightface, by_pytorch, faces, quiet, unit
from face_files import write_people
from rich.console import Console
from small_models import save_network
from tiny_run import tiny_recipe, write_faces
from typer.testing import CliRunner

from fusedface import cli
from fusedface.data.gallery import face_files
from fusedface.models import build_from_checkpoint, create
from fusedface.recipes.evaluation.recognisers import open_recogniser
from fusedface.recipes.evaluation.threshold_file import read_thresholds, thresholds_of
from fusedface.recipes.export import formats, int8_layers
from fusedface.recipes.export.export import export
from fusedface.recipes.run import run_recipe

pytestmark = pytest.mark.usefixtures("short_networks")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run; its network takes (x - 127.5) / 127.5."""
    folder = write_faces(tmp_path_factory.mktemp("faces"))
    run_recipe(tiny_recipe(folder), folder / "run", device="cpu", console=quiet())
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run) -> Path:
    """All that needs no further package, calibrated and compared on the faces of the run."""
    out = run.parent / "out" / "deep"
    export(
        run,
        ["onnx", "onnx-int8", "safetensors", "pt2"],
        out,
        data=str(run.parent / "train"),
        pair_lists=[run.parent / "pairs.csv"],
        console=quiet(),
    )
    return out


@pytest.fixture(scope="module")
def unusual(tmp_path_factory) -> Path:
    """A checkpoint whose images are cropped and normalised in no usual way, and its ONNX files."""
    folder = tmp_path_factory.mktemp("unusual")
    torch.manual_seed(0)
    model = create("mobilefacenet", embedding_dim=16, input_size=(SIZE, 16), width=0.25)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: no unit statistics
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    model.preprocessing = replace(
        model.preprocessing, mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 55.0), flip="concat"
    )
    save_network(model, folder / "odd.pt")
    export(folder / "odd.pt", ["onnx", "onnx-int8"], folder, console=quiet())
    return folder


@pytest.mark.parametrize("batch", [1, 3])
def test_insightface_understands_the_usual_normalisation(run, exported, batch):
    model, images = build_from_checkpoint(run / "checkpoints" / "best.pt"), faces(batch)
    rows = by_insightface(exported / "run.onnx", images[..., ::-1])
    np.testing.assert_allclose(rows, by_pytorch(model, images), atol=EXACT)


def test_insightface_feeds_the_channels_in_their_order(tmp_path):
    """A linear network of red minus blue: channels in the wrong order negate its embeddings."""
    torch.manual_seed(0)
    model = create("mobilefacenet", embedding_dim=16, input_size=(SIZE, SIZE), width=0.25)
    for module in model.modules():
        if isinstance(module, torch.nn.PReLU):
            torch.nn.init.ones_(module.weight)
    weight = model.stem.conv.weight.data  # (C, 3, 3, 3)
    weight[:, 1], weight[:, 2] = 0.0, -weight[:, 0]
    save_network(model, tmp_path / "linear.pt")
    export(tmp_path / "linear.pt", ["onnx"], tmp_path, console=quiet())
    model, images = build_from_checkpoint(tmp_path / "linear.pt"), faces()
    rows = by_insightface(tmp_path / "linear.onnx", images[..., ::-1])
    np.testing.assert_allclose(rows, by_pytorch(model, images), atol=EXACT)
    np.testing.assert_allclose(rows, -by_pytorch(model, images[..., ::-1].copy()), atol=EXACT)


@pytest.mark.parametrize("batch", [1, 3])
def test_insightface_understands_any_other_normalisation(unusual, batch):
    model, images = build_from_checkpoint(unusual / "odd.pt"), faces(batch)
    rows = by_insightface(unusual / "odd.onnx", images[..., ::-1])
    np.testing.assert_allclose(rows, by_pytorch(model, images), atol=EXACT)


def test_opencv_understands_grey_levels(tmp_path):
    """cv2.FaceRecognizerSF swaps the channels of a BGR image and normalises nothing."""
    cv2 = pytest.importorskip("cv2")
    torch.manual_seed(0)
    model = create("mobilefacenet", embedding_dim=16, width=0.25)
    save_network(model, tmp_path / "usual.pt")
    export(tmp_path / "usual.pt", ["onnx"], tmp_path, grey_levels=True, console=quiet())
    model, images = build_from_checkpoint(tmp_path / "usual.pt"), faces(3, 112)
    expected = by_pytorch(model, images)
    recogniser = cv2.FaceRecognizerSF.create(str(tmp_path / "usual.onnx"), "")
    rows = [recogniser.feature(np.ascontiguousarray(image[..., ::-1])) for image in images]
    np.testing.assert_allclose(unit(np.concatenate(rows)), expected, atol=EXACT)
    rows = by_insightface(tmp_path / "usual.onnx", images[..., ::-1])
    np.testing.assert_allclose(rows, expected, atol=EXACT)
    card = (tmp_path / "usual.onnx.md").read_text(encoding="utf-8")
    assert "the graph subtracts 127.5, 127.5, 127.5 and divides by 127.5, 127.5, 127.5" in card
    assert "FaceRecognizerSF" not in card
    with pytest.raises(ValueError, match="holds weights and no graph"):
        export(tmp_path / "usual.pt", ["safetensors"], tmp_path, grey_levels=True, console=quiet())


def test_evaluate_embeds_with_a_file_as_with_its_checkpoint(run, exported, unusual):
    """Mirror features summed, and in a row; the second is cropped and normalised by the graph."""
    images = face_files([run.parent / "test"])
    for path, source, dim in (
        (exported / "run.onnx", run / "checkpoints" / "best.pt", 16),
        (unusual / "odd.onnx", unusual / "odd.pt", 32),
    ):
        file, checkpoint = open_recogniser(path), open_recogniser(source, "cpu")
        assert (file.size, file.flip) == (checkpoint.size, checkpoint.flip)
        rows = file.embed(images)
        assert rows.shape == (36, dim)
        np.testing.assert_allclose(unit(rows), unit(checkpoint.embed(images)), atol=EXACT)


def test_all_files_have_the_mode_of_a_new_file(exported, tmp_path):
    (tmp_path / "new").write_bytes(b"")
    expected = (tmp_path / "new").stat().st_mode
    assert {path.name: path.stat().st_mode for path in exported.iterdir()} == {
        path.name: expected for path in exported.iterdir()
    }


def test_8_bit_files_are_near_and_have_8_bit_weights(run, exported, unusual):
    for path, source in (
        (exported / "run.int8.onnx", run / "checkpoints" / "best.pt"),
        (unusual / "odd.int8.onnx", unusual / "odd.pt"),
    ):
        images = faces()
        rows = by_insightface(path, images[..., ::-1])
        expected = by_pytorch(build_from_checkpoint(source), images)
        assert (rows * expected).sum(axis=1).min() > 0.9
        assert not np.allclose(rows, expected, atol=EXACT)
        weights = onnx.load(path).graph.initializer
        kinds = {t.data_type for t in weights if len(t.dims) == 4 and t.dims[0] > 1}
        assert kinds == {onnx.TensorProto.INT8}


def test_layers_that_stay_float(run, exported, tmp_path):
    """Their weights are float32, the others 8-bit; float32 layers at the input lose nothing."""
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    keep = ["stem", "stem_depthwise", "blocks.0"]
    data = str(run.parent / "train")
    export(run, ["onnx-int8"], tmp_path, data=data, keep_float=keep, console=console)
    exact, path = exported / "run.onnx", tmp_path / "run.int8.onnx"
    weights = {t.name: t.data_type for t in onnx.load(path).graph.initializer}
    names = int8_layers.layers(onnx.load(exact))
    assert {"stem.conv", "blocks.0.expand.conv", "blocks.1.expand.conv", "embedding.conv"} <= set(
        names
    )
    images = (faces(4).astype(np.float32) - 127.5) / 127.5
    found = int8_layers.layer_cosines(exact, path, images.transpose(0, 3, 1, 2).copy())
    card = (tmp_path / "run.int8.onnx.md").read_text("utf-8")
    rows = re.findall(r"^\| (\S+) \| [01]\.\d{5} \| [01]\.\d{5} \| (\d+) \|$", card, re.MULTILINE)
    assert [name for name, _ in rows] == list(names)
    for name, bits in rows:
        is_float = name.startswith(("stem.", "stem_depthwise.", "blocks.0."))
        assert bits == ("32" if is_float else "8"), name
        assert (f"backbone.{name}.weight" in weights) == is_float, name
        assert (found[name][0] > 1 - 1e-9) == is_float, name
        assert f"{name} " in stream.getvalue()


def test_unknown_layers_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"no layer 'block'; there are: stem.conv, "):
        export(run, ["onnx-int8"], tmp_path, keep_float=["block"], console=quiet())
    with pytest.raises(ValueError, match="give --format onnx-int8 too"):
        export(run, ["onnx"], tmp_path, keep_float=["stem"], console=quiet())
    assert not list(tmp_path.iterdir())


def test_onnx_file_is_one_and_describes_itself(exported):
    model = onnx.load(exported / "run.onnx", load_external_data=False)
    assert [i.name for i in model.graph.input] == ["data"]
    assert [o.name for o in model.graph.output] == ["embedding"]
    assert not any(t.external_data for t in model.graph.initializer)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)  # folded
    described = {p.key: p.value for p in model.metadata_props}
    assert json.loads(described["preprocessing"])["flip"] == "sum"
    assert json.loads(described["backbone"])["embedding_dim"] == 16


@pytest.mark.parametrize("batch", [1, 4])
def test_pt2(run, exported, batch):
    images = faces(batch)
    network = torch.export.load(exported / "run.pt2").module()
    data = torch.from_numpy((images.astype(np.float32) - 127.5) / 127.5).permute(0, 3, 1, 2)
    expected = by_pytorch(build_from_checkpoint(run / "checkpoints" / "best.pt"), images)
    np.testing.assert_allclose(unit(network(data).detach()), expected, atol=EXACT)


def test_safetensors_builds_the_same_network(run, exported):
    original = build_from_checkpoint(run / "checkpoints" / "best.pt")
    model = build_from_checkpoint(exported / "run.safetensors")
    assert (model.config, model.preprocessing) == (original.config, original.preprocessing)
    for name, value in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_files_do_not_tell_where_they_were_made(run, exported):
    places = [
        str(part).encode() for part in (run.parent, Path(formats.__file__).resolve().parents[2])
    ]
    for path in exported.iterdir():
        content = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = [archive.read(name) for name in archive.namelist()]
        if path.suffix == ".md":  # the recipe is quoted as it is
            content = [part.split(b"```toml")[0] for part in content]
        assert not any(place in part for place in places for part in content), path.name


def test_cards(run, exported, unusual):
    names = {path.name for path in exported.iterdir()}
    files = {"run.onnx", "run.int8.onnx", "run.safetensors", "run.pt2"}
    more = (".md", ".thresholds.json")
    assert names == files | {name + suffix for name in files for suffix in more}
    card = (exported / "run.onnx.md").read_text(encoding="utf-8")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    figures = summary["verification"]["pairs"]
    spread = f"{100 * figures['accuracy']:.2f} ± {100 * figures['accuracy_std']:.2f}"
    for text in (
        "(x - 127.5) / 127.5. **OpenCV's `cv2.FaceRecognizerSF` feeds x itself**",
        "plus that of its mirror image. **Mirroring is not part of the file**",
        (run / "recipe.toml").read_text(encoding="utf-8"),
        "36 images of 6 people",
        "| trained |\n|---|---|---|---|\n| pairs | accuracy, 10 folds | ",
        f"| {spread} |",
        "licence of the training data is not known",
        'InferenceSession("run.onnx")',
    ):
        assert text in card
    int8 = (exported / "run.int8.onnx.md").read_text(encoding="utf-8")
    assert "256 faces of train" in int8
    assert "8 bits: ONNX Runtime only" in int8
    assert "8 bits: ONNX Runtime only" not in card
    odd = (unusual / "odd.onnx.md").read_text(encoding="utf-8")
    for text in (
        "the graph subtracts 120, 110, 100 and divides by 60, 50, 55 (R, G, B)",
        "cuts the middle 32x16 out",
        "(B, 3, 32, 32)",
        "one after the other",
        "says neither which data nor which recipe",
    ):
        assert text in odd


def test_cards_and_files_of_thresholds(run, exported, unusual, tmp_path):
    """Those that `evaluate` finds with the file, beside it, and in its card with the set and a warning."""
    path = exported / "run.onnx"
    name, found = thresholds_of(path.with_name("run.onnx.thresholds.json"), path, None)
    assert (name, found.num_genuine, found.num_impostor) == ("pairs", 50, 50)
    listed, out = ["--pairs", str(run.parent / "pairs.csv")], ["--out", str(tmp_path)]
    CliRunner().invoke(cli.app, ["evaluate", str(path), *listed, *out], catch_exceptions=False)
    expected = read_thresholds(tmp_path / "thresholds.json").sets["pairs"]
    assert found.best == pytest.approx(expected.best, abs=1e-5)
    assert [p.far for p in found.points] == [p.far for p in expected.points] == [0.1]
    assert found.points[0].threshold == pytest.approx(expected.points[0].threshold, abs=1e-5)
    card = (exported / "run.onnx.md").read_text(encoding="utf-8")
    assert "| pairs: FAR | threshold |" in card
    assert f"| 0.1 | {found.points[0].threshold:.4f} |" in card
    assert "50 genuine and 50 impostor pairs (listed)" in card
    assert "**Warning:** 50 impostor pairs are too few for a threshold at FAR 0.1" in card
    odd = (unusual / "odd.onnx.md").read_text(encoding="utf-8")
    assert "None are known: no pairs of real faces were given" in odd
    assert not list(unusual.glob("*.json"))


def test_runs_of_a_comparison_are_named_after_their_losses(run, tmp_path):
    """Both were seed0, so the second export replaced the first."""
    for loss in ("arcface", "curricularface"):
        shutil.copytree(run, tmp_path / loss / "seed0")
        (path,) = export(
            tmp_path / loss / "seed0", ["safetensors"], tmp_path / "out", console=quiet()
        )
        assert path.name == f"{loss}-seed0.safetensors"
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2


def test_thresholds_of_a_replaced_file_go(exported, run, tmp_path):
    shutil.copytree(exported, tmp_path / "out")
    export(run, ["safetensors"], tmp_path / "out", console=quiet())
    names = {path.name for path in exported.iterdir()} - {"run.safetensors.thresholds.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_faces_of_another_size_are_told(run, tmp_path):
    """Thresholds of stretched photos are none of aligned crops."""
    people = write_people(tmp_path / "people")
    (people / "some.txt").write_text(
        "ann/ann_0001.png ann/ann_0002.png 1 0\nann/ann_0001.png cyd/cyd_0001.png 0 0\n"
        "bob/bob_0001.png bob/bob_0002.png 1 1\nbob/bob_0001.png cyd/cyd_0001.png 0 1\n"
    )
    console = Console(file=io.StringIO(), width=200)
    lists = [people / "some.txt"]
    export(run, ["safetensors"], tmp_path, data=str(people), pair_lists=lists, console=console)
    shown = console.file.getvalue()
    assert "some: 5 of 5 images are not 32x32 (112x112: 5); they are scaled" in shown
    assert "people: 9 of 9 images are not 32x32 (112x112: 9); they are scaled" in shown


def test_a_damaged_summary_is_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match=r"summary\.json is not a summary of a run"):
        export(tmp_path / "run", ["safetensors"], tmp_path / "out", console=quiet())


def test_a_file_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch):
    right = formats.FORMATS["safetensors"]

    def open_wrong(path):
        embed = right.open(path)
        return lambda data: embed(data) + np.float32(0.01)

    wrong = replace(right, name="wrong", suffix=".wrong.safetensors", open=open_wrong)
    monkeypatch.setitem(formats.FORMATS, "wrong", wrong)
    with pytest.raises(ValueError, match=r"'wrong'.* differ .*allowed is 0.0001; nothing was"):
        export(run, ["safetensors", "wrong"], tmp_path / "a" / "b", console=quiet())
    assert list(tmp_path.iterdir()) == []


def test_mistakes(run, tmp_path):
    def attempt(source, kind, **options):
        export(source, [kind], tmp_path / "out", console=quiet(), **options)

    with pytest.raises(ValueError, match="unknown format 'tflite'; it is one of: onnx, "):
        attempt(run, "tflite")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        attempt(tmp_path, "onnx")
    with pytest.raises(ValueError, match=r"none\.pt does not exist"):
        attempt(tmp_path / "none.pt", "onnx")
    with pytest.raises(ValueError, match="does not exist; give a folder"):
        attempt(run, "onnx-int8", data=str(tmp_path / "nobody"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("kept")
    with pytest.raises(ValueError, match="out is a file; give a folder"):
        attempt(run, "onnx")


def test_command(run, tmp_path):
    arguments = ["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Verification on generated" in result.output
    assert (tmp_path / "out" / "run.safetensors").is_file()


def test_missing_package_is_named(monkeypatch):
    absent = replace(formats.FORMATS["onnx"], packages=("onnx", "no_such_package"))
    monkeypatch.setitem(formats.FORMATS, "onnx", absent)
    with pytest.raises(ValueError, match=r"needs no_such_package; .*pip install -e '\.\[export\]'"):
        formats.get_format("onnx")


@pytest.mark.parametrize(
    ("package", "kind"), [("executorch", "executorch"), ("litert_torch", "litert")]
)
def test_phones(unusual, tmp_path, package, kind):
    pytest.importorskip(package, reason=f"hundreds of MB; pip install -e '.[{kind}]'")
    (path,) = export(unusual / "odd.pt", [kind], tmp_path, console=quiet())
    images = faces(3)
    # The graph normalises: grey levels go in.
    rows = formats.FORMATS[kind].open(path)(
        np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
    )
    expected = by_pytorch(build_from_checkpoint(unusual / "odd.pt"), images)
    np.testing.assert_allclose(unit(rows), expected, atol=EXACT)
