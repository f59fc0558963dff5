"""Checkpoints: what loads, what is refused and how, and that a refused file runs nothing."""

import io
import math
import os
import pickle
import sys
from collections import OrderedDict

import pytest
import torch

from fusedface.models import Backbone, build_from_checkpoint, create, load_checkpoint
from fusedface.models.contents import MAX_LISTED
from fusedface.models.layouts import LAYOUTS, PRELU_112X96, RELU6_112X112

SMALL = {"embedding_dim": 16, "input_size": (32, 32), "width": 0.25}


def _trained(name: str = "mobilefacenet", seed: int = 1, **options) -> Backbone:
    """A backbone none of whose tensors has its initial value."""
    torch.manual_seed(seed)
    model = create(name, **options)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand_like(value) * 0.1)
        else:
            value.fill_(7)
    return model


def _own_format(backbone: Backbone, changes: dict | None = None) -> dict:
    checkpoint = {
        "format": "fusedface-checkpoint",
        "version": 1,
        "step": 1234,
        "backbone": backbone.config,
        "preprocessing": backbone.preprocessing.as_dict(),
        "model": backbone.state_dict(),
        "head": {"weight": torch.zeros(3, backbone.embedding_dim), "t": torch.tensor(0.3)},
        "optimizer": {"state": {}, "param_groups": []},
    }
    return checkpoint | (changes or {})


def _assert_same_weights(model: Backbone, other: Backbone) -> None:
    expected = other.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.fixture
def small() -> Backbone:
    return _trained(**SMALL)


@pytest.mark.parametrize("name", ["mobilefacenet", "mobilefacenet_relu", "mbf", "iresnet18"])
def test_own_format_round_trip(tmp_path, name):
    original = _trained(name, **SMALL)
    torch.save(_own_format(original), tmp_path / "last.pt")
    other = create(name, **SMALL)
    loaded = load_checkpoint(other, tmp_path / "last.pt")
    assert (loaded.layout, loaded.step) == ("fusedface", 1234)
    assert loaded.preprocessing == original.preprocessing
    _assert_same_weights(other, original)
    built = build_from_checkpoint(str(tmp_path / "last.pt"))
    assert built.config == original.config
    assert not built.training
    _assert_same_weights(built, original)


@pytest.mark.parametrize(
    ("name", "saved", "loaded", "option"),
    [
        ("mobilefacenet", {"activation": "relu6"}, {"activation": "relu"}, "activation, .*'relu6'"),
        ("mobilefacenet", {"stem_activation": "relu", "activation": "relu6"},
         {"stem_activation": "relu6", "activation": "relu6"}, "stem_activation, .*'relu'"),
        ("edgeface_xs", {}, {"input_size": (64, 32)}, r"input_size, .*\[32, 32\]"),
        ("iresnet18", {"input_size": (64, 32)}, {"input_size": (32, 64)}, r"input_size, .*\[64, 32\]"),
    ],
)  # fmt: skip
def test_options_without_tensors_of_their_own_must_fit(tmp_path, name, saved, loaded, option):
    torch.save(_own_format(_trained(name, **SMALL | saved)), tmp_path / "last.pt")
    model = create(name, **SMALL | loaded)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"last.pt fits .* by its tensors, but not by {option}"):
        load_checkpoint(model, tmp_path / "last.pt")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_own_format_carries_its_preprocessing(tmp_path, small):
    values = {**small.preprocessing.as_dict(), "std": [128.0, 128.0, 128.0], "flip": "concat"}
    torch.save(_own_format(small, {"preprocessing": values}), tmp_path / "last.pt")
    load_checkpoint(small, tmp_path / "last.pt")
    assert small.preprocessing.as_dict() == values


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_bare_state_dict(tmp_path, small, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(small.state_dict(), path)
    else:
        pytest.importorskip("safetensors.torch").save_file(small.state_dict(), path)
    other = create("mobilefacenet", **SMALL)
    loaded = load_checkpoint(other, path)
    assert (loaded.layout, loaded.step) == ("state_dict", None)
    assert loaded.preprocessing == other.preprocessing
    _assert_same_weights(other, small)
    with pytest.raises(ValueError, match="not the backbone they belong to"):
        build_from_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "damaged or no safetensors file"),
        ("[" * 100_000, "damaged or no safetensors file"),
        ("[1]", "its metadata 'fusedface' must be a JSON object"),
        ("{}", "no checkpoint of a known layout"),
        ('{"format": "fusedface-checkpoint", "version": 1}', "key 'backbone' must be of type dict"),
    ],
    ids=lambda text: text[:20],
)
def test_malformed_safetensors_metadata_is_refused(tmp_path, small, metadata, message):
    path = tmp_path / "bad.safetensors"
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(small.state_dict(), path, metadata={"fusedface": metadata})
    with pytest.raises(ValueError, match=message) as caught:
        build_from_checkpoint(path)
    assert str(path) in str(caught.value)


def test_half_precision_weights_load_as_float32(tmp_path, small):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in small.state_dict().items()}
    torch.save(halves, tmp_path / "half.pt")
    other = create("mobilefacenet", **SMALL)
    load_checkpoint(other, tmp_path / "half.pt")
    for key, value in other.state_dict().items():
        assert value.dtype == small.state_dict()[key].dtype
        assert torch.equal(value, halves[key].to(value.dtype))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_public_layouts_map_every_tensor(tmp_path, layout):
    original = _trained(**layout.config)
    theirs = {ours: key for key, ours in layout.names().items()}
    assert theirs.keys() == original.state_dict().keys()
    state = OrderedDict((theirs[key], value) for key, value in original.state_dict().items())
    torch.save({layout.wrapper: state, "epoch": 68} if layout.wrapper else state, tmp_path / "a.pt")
    built = build_from_checkpoint(tmp_path / "a.pt")
    _assert_same_weights(built, original)
    assert built.preprocessing == layout.preprocessing


def test_public_names_by_hand():
    prelu, relu6 = PRELU_112X96.names(), RELU6_112X112.names()
    assert prelu["dw_conv1.prelu.weight"] == "stem_depthwise.act.weight"
    assert prelu["blocks.14.conv.3.weight"] == "blocks.14.depthwise.conv.weight"
    assert prelu["blocks.0.conv.7.running_var"] == "blocks.0.project.bn.running_var"
    assert prelu["linear1.bn.bias"] == "embedding.bn.bias"
    assert relu6["dw_conv.bn2.weight"] == "stem_pointwise.bn.weight"
    assert relu6["features.12.conv.0.0.weight"] == "blocks.12.expand.conv.weight"
    assert relu6["features.3.conv.3.bias"] == "blocks.3.project.bn.bias"
    assert relu6["conv3.bias"] == "embedding.conv.bias"


def test_wrong_architecture_lists_what_differs_and_changes_nothing(tmp_path):
    theirs = {ours: key for key, ours in RELU6_112X112.names().items()}
    relu6 = _trained(**{k: v for k, v in RELU6_112X112.config.items() if k != "name"})
    torch.save({theirs[k]: v for k, v in relu6.state_dict().items()}, tmp_path / "relu6.pt")
    model = _trained(seed=2, embedding_dim=64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit the backbone") as caught:
        load_checkpoint(model, tmp_path / "relu6.pt")
    message = str(caught.value)
    # PReLU slopes: two stem layers, the final one, two a bottleneck. Pointwise stem: 6, the bias: 1.
    assert f"{3 + 2 * 15} missing: stem.act.weight" in message
    assert "7 unexpected: dw_conv.pointwise.weight" in message
    assert "conv3.weight (128, 512, 1, 1) instead of (64, 512, 1, 1)" in message
    assert "5 of another shape" in message  # the convolution, and four of its BN
    assert f"and {33 - MAX_LISTED} more" in message
    assert "build_from_checkpoint" in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_missing_and_unexpected_tensors(tmp_path, small):
    state = small.state_dict()
    state["gdconv.conv.weights"] = state.pop("gdconv.conv.weight")
    torch.save(state, tmp_path / "typo.pt")
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_checkpoint(small, tmp_path / "typo.pt")
    assert "1 missing: gdconv.conv.weight\n" in str(caught.value)
    assert "1 unexpected: gdconv.conv.weights" in str(caught.value)


def test_integer_weights_are_refused(tmp_path, small):
    state = small.state_dict()
    state["stem.conv.weight"] = state["stem.conv.weight"].to(torch.int8)
    torch.save(state, tmp_path / "int8.pt")
    with pytest.raises(ValueError, match=r"1 of another type: stem.conv.weight torch.int8"):
        load_checkpoint(small, tmp_path / "int8.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "must have format 'fusedface-checkpoint', version 1, got 'other'"),
        ({"version": 2}, "version 1, got 'fusedface-checkpoint', version 2"),
        ({"model": None}, "key 'model' must be of type dict, got NoneType"),
        ({"model": {"a": 1}}, "must be tensors, they are not: a"),
        ({"step": "7"}, "key 'step' must be of type int, got str"),
        ({"preprocessing": {"flip": "mean"}}, "flip must be"),
        ({"preprocessing": {"mean": ["a", "b", "c"]}}, "mean and std must be finite numbers"),
        ({"preprocessing": {"std": [1.0, math.nan, 1.0]}}, "mean and std must be finite numbers"),
        ({"preprocessing": {"input_size": [48, 48]}}, r"prepares images of \(48, 48\) pixels"),
        ({"backbone": {"name": "vit"}}, "unknown backbone 'vit'"),
        ({"backbone": {}}, "bad backbone configuration"),
        ({"backbone": {"name": "mbf", "width": "wide"}}, "width must be"),
    ],
    ids=str,
)
def test_malformed_own_format_is_refused(tmp_path, small, changes, message):
    path = tmp_path / "bad.pt"
    torch.save(_own_format(small, changes), path)
    with pytest.raises(ValueError, match=message) as caught:
        build_from_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [{}, {"a": 1}, [torch.zeros(2)], torch.zeros(2), {"net_state_dict": {"x": torch.zeros(1)}}],
    ids=["empty", "no tensors", "list", "tensor", "other wrapper"],
)
def test_other_content_is_refused(tmp_path, small, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"no checkpoint|must hold a dictionary") as caught:
        load_checkpoint(small, path)
    assert str(path) in str(caught.value)


def _assert_refused(model: Backbone, path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        load_checkpoint(model, path)
    message = str(caught.value)
    assert str(path) in message
    assert "weights_only" not in message  # no advice to switch the protection off
    assert len(message) < 500
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path, small, legacy, share):
    buffer = io.BytesIO()
    torch.save(small.state_dict(), buffer, _use_new_zipfile_serialization=not legacy)
    data = buffer.getvalue()
    path = tmp_path / "cut.pt"
    path.write_bytes(data[: int(len(data) * share)])
    _assert_refused(small, path, "damaged|refused")


def test_flipped_bit_is_refused(tmp_path, small):
    path = tmp_path / "flipped.pt"
    torch.save(small.state_dict(), path)
    data = bytearray(path.read_bytes())
    weights = small.state_dict()["final.conv.weight"].numpy().tobytes()
    data[data.index(weights) + 10] ^= 1
    path.write_bytes(data)
    _assert_refused(small, path, "damaged: the checksum of .* does not hold")


@pytest.mark.parametrize("name", ["notes.pt", "notes.safetensors"])
@pytest.mark.parametrize("data", [b"", b"hello world\n", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK"])
def test_other_files_are_refused(tmp_path, small, name, data):
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    (tmp_path / name).write_bytes(data)
    _assert_refused(small, tmp_path / name, "damaged|refused")


def test_missing_file_and_folder(tmp_path, small):
    _assert_refused(small, tmp_path / "none.pt", "does not exist")
    _assert_refused(small, tmp_path, "is a folder")


class _Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["pickle", "zip", "legacy", "among tensors"])
def test_malicious_pickles_are_refused_without_running(tmp_path, small, form):
    proof = tmp_path / "it_ran"
    bomb = _Malicious(f'echo ran > "{proof}"')
    path = tmp_path / "bomb.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif form == "among tensors":
        torch.save({**small.state_dict(), "stem.conv.weight": bomb}, path)
    else:
        torch.save({"a": bomb}, path, _use_new_zipfile_serialization=form == "zip")
    _assert_refused(small, path, "refused: .*Nothing in it was run")
    assert not proof.exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert proof.exists()  # the file would have done it


def test_safetensors_package_is_needed_only_for_its_files(tmp_path, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="pip install safetensors"):
        load_checkpoint(small, tmp_path / "a.safetensors")
    torch.save(small.state_dict(), tmp_path / "a.pt")
    load_checkpoint(small, tmp_path / "a.pt")


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_values_are_refused(tmp_path, small, kind, own):
    state = small.state_dict()
    name = next(name for name, value in state.items() if name.endswith("weight"))
    state[name] = state[name].to_sparse() if kind == "sparse" else state[name].to("meta")
    path = tmp_path / "odd.pt"
    torch.save(_own_format(small, {"model": state}) if own else state, path)
    for load in (build_from_checkpoint, lambda file: load_checkpoint(small, file)):
        if not own and load is build_from_checkpoint:
            continue
        with pytest.raises(ValueError, match=rf"dense tensors with values.*{name}"):
            load(path)
