"""Read checkpoints: this project's, bare state_dicts of its backbones, and public layouts.

Files are read with `weights_only=True`: a file that holds more than tensors and plain values is
refused, and none of its code runs. A checkpoint either fits the backbone completely or changes nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusedface.models.archives import FORMAT, VERSION, read_archive
from fusedface.models.backbone import MAX_EMBEDDING_DIM, Backbone
from fusedface.models.contents import Contents, listed, match
from fusedface.models.layouts import LAYOUTS, Layout
from fusedface.models.preprocessing import Preprocessing
from fusedface.models.registry import create


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What `load_checkpoint` found in a file.

    Attributes:
        layout: "fusedface", "state_dict", or the name of a public layout.
        preprocessing: what the backbone now expects of its images.
        step: the training step at which it was saved; None if the file does not say.
    """

    layout: str
    preprocessing: Preprocessing
    step: int | None = None


def load_checkpoint(model: Backbone, path: str | Path) -> LoadedCheckpoint:
    """Fill a backbone from a file, and set its `preprocessing` if the file's layout defines it.

    Args:
        model: a backbone of the file's architecture, on any device.
        path: written by a run, or a state_dict of such a backbone (.safetensors too), or a checkpoint
            in a public layout: see docs/models.md.

    Returns:
        The layout of the file, the preprocessing that the backbone now expects, and the training step.

    Raises:
        ValueError: the file does not exist, is damaged or is not a checkpoint, or it does not fit the
            backbone (the message lists tensors that are missing, unexpected or of another shape, or
            options without tensors of their own, such as an activation).
    """
    return _fill(model, interpret(read_archive(path), path), path)


def build_from_checkpoint(path: str | Path) -> Backbone:
    """Build the backbone that a file was saved from, with its weights and preprocessing.

    Returns:
        The backbone in evaluation mode, on the CPU.

    Raises:
        ValueError: as `load_checkpoint`; or the file is a bare state_dict, which does not name its
            backbone.
    """
    contents = interpret(read_archive(path), path)
    if contents.config is None:
        raise ValueError(
            f"{path} holds tensors but not the backbone they belong to; "
            "create that backbone and use load_checkpoint(model, path)"
        )
    _fitting(_shape(contents.config, path), contents, path)
    model = create(**contents.config)
    _fill(model, contents, path)
    return model.eval()


def _shape(config: dict[str, Any], path: str | Path) -> Backbone:
    """A file's backbone without memory for its weights, which the file may lack."""
    try:
        with torch.device("meta"):
            return create(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: bad backbone configuration: {error}") from None


def interpret(archive: dict[Any, Any], path: str | Path) -> Contents:
    """Find the layout of a file's dictionary."""
    if "format" in archive:
        return _interpret_own(archive, path)
    for layout in LAYOUTS:
        wrapped = archive.get(layout.wrapper, archive) if layout.wrapper else archive
        if isinstance(wrapped, dict) and layout.marker in wrapped:
            return _interpret_public(layout, wrapped, path)
    if not archive or not all(isinstance(value, Tensor) for value in archive.values()):
        keys = listed([str(key) for key in archive]) or "none"
        raise ValueError(
            f"{path} is no checkpoint of a known layout; its top-level keys are: {keys}"
        )
    return Contents("state_dict", _tensors(archive, path))


def _interpret_own(archive: dict[Any, Any], path: str | Path) -> Contents:
    if archive["format"] != FORMAT or archive.get("version") != VERSION:
        raise ValueError(
            f"{path} must have format {FORMAT!r}, version {VERSION}, "
            f"got {archive['format']!r}, version {archive.get('version')!r}"
        )
    kinds = {"backbone": dict, "preprocessing": dict, "model": dict}
    kinds |= {"step": int} if "step" in archive else {}  # unknown for an exported public checkpoint
    for key, kind in kinds.items():
        if not isinstance(archive.get(key), kind):
            raise ValueError(  # noqa: TRY004  the file is bad, not the argument's type
                f"{path}: key {key!r} must be of type {kind.__name__}, "
                f"got {type(archive.get(key)).__name__}"
            )
    try:
        preprocessing = Preprocessing.from_dict(archive["preprocessing"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Contents(
        "fusedface",
        _tensors(archive["model"], path),
        config=archive["backbone"],
        preprocessing=preprocessing,
        step=archive.get("step"),
    )


def _interpret_public(layout: Layout, tensors: dict[Any, Any], path: str | Path) -> Contents:
    backbone = {key: value for key, value in tensors.items() if key != layout.head}
    return Contents(
        layout.name,
        _tensors(backbone, path),
        names=layout.names(),
        config=layout.config | _embedding_dim(tensors.get(layout.embedding)),
        preprocessing=layout.preprocessing,
    )


def _embedding_dim(tensor: object) -> dict[str, int]:
    """D as an option of `create`, if the tensor's shape gives it; else the backbone's default is tried."""
    if isinstance(tensor, Tensor) and tensor.ndim > 0 and 0 < len(tensor) <= MAX_EMBEDDING_DIM:
        return {"embedding_dim": len(tensor)}
    return {}


def _tensors(values: dict[Any, Any], path: str | Path) -> dict[str, Tensor]:
    wrong = [
        str(k) for k, v in values.items() if not (isinstance(k, str) and isinstance(v, Tensor))
    ]
    if wrong:
        raise ValueError(f"{path}: these entries must be tensors, they are not: {listed(wrong)}")
    empty = [k for k, v in values.items() if v.layout != torch.strided or v.device.type == "meta"]
    if empty:
        raise ValueError(
            f"{path}: these entries must be dense tensors with values, they are sparse or on the meta "
            f"device: {listed(empty)}"
        )
    return values


def _fill(model: Backbone, contents: Contents, path: str | Path) -> LoadedCheckpoint:
    """Copy a file's tensors into a backbone that they fit."""
    state, prepared = _fitting(model, contents, path), contents.preprocessing
    if prepared is not None and prepared.input_size != model.input_size:
        raise ValueError(
            f"{path} prepares images of {prepared.input_size} pixels for a backbone that takes "
            f"{model.input_size}"
        )
    model.load_state_dict(state)
    if prepared is not None:
        model.preprocessing = prepared
    return LoadedCheckpoint(contents.layout, model.preprocessing, contents.step)


def _fitting(model: Backbone, contents: Contents, path: str | Path) -> dict[str, Tensor]:
    """A file's tensors under our names; ValueError if they do not fit."""
    found = match(model.state_dict(), contents)
    if found.differences:
        known = contents.config is not None
        hint = "\nbuild_from_checkpoint(path) makes the backbone that fits" if known else ""
        raise ValueError(
            f"{path} (layout {contents.layout}) does not fit the backbone {model.config}:\n"
            + "\n".join(f"  {len(k)} {kind}: {listed(k)}" for kind, k in found.differences.items())
            + hint
        )
    if others := _other_options(model, contents, path):
        raise ValueError(
            f"{path} fits the backbone {model.config} by its tensors, but not by {others}"
        )
    return found.state


def _other_options(model: Backbone, contents: Contents, path: str | Path) -> str:
    """Options of the file's backbone that show in no tensor and differ, in words; or nothing."""
    if contents.config is None:
        return ""
    theirs = _shape(contents.config, path).config
    return ", ".join(
        f"{name}, which is {value!r} in the file"
        for name, value in theirs.items()
        if name != "name" and name in model.config and model.config[name] != value
    )
