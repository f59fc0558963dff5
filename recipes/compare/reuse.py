"""Checks that the runs of a comparison share settings, data and code, so that results can be reused."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import torch

from fusedface.data import PairList, fingerprint, fingerprint_of_files
from fusedface.recipes.compare.results import OF_THE_LOSS, PlannedRun
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import differences, read_recipe
from fusedface.recipes.run_directory.directory import RECIPE
from fusedface.recipes.run_directory.files import write_text
from fusedface.recipes.training.faces import open_faces

ROOT = Path(__file__).resolve().parents[2]
DECIDING = (
    "kernels",
    "models",
    "data",
    "recipes/configuration",
    "recipes/training",
    "recipes/evaluation",
)
"""Folders of the code that decides the result of a run."""

Inputs = dict[str, str]


def inputs_of(recipe: Recipe, device: torch.device) -> Inputs:
    """Everything besides the recipe that decides a run's result; the same for all seeds and losses.

    Raises:
        ValueError: the recipe's faces cannot be read.
    """
    with torch.device("meta"):  # draws no weights
        preprocessing = recipe.backbone.build().preprocessing
    note = lambda text: None  # noqa: ARG005, E731
    faces = open_faces(recipe.data, recipe.evaluation, preprocessing, device, note)
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    train = fingerprint(faces.train)
    inputs = {
        "code": code_version(),
        "torch": torch.__version__,
        "device": device.type + gpu,
        "training images": ", ".join(f"{key} {value}" for key, value in train.items()),
    }
    return inputs | {f"pairs of {name}": _digest(pairs) for name, pairs in faces.tests.items()}


def code_version() -> str:
    """The package's version and a digest of the sources that decide a result."""
    digest = hashlib.sha256()
    sources = ("*.py", "*.c")  # the loops in C do the arithmetic of CPUs
    files = [p for folder in DECIDING for kind in sources for p in (ROOT / folder).rglob(kind)]
    for path in sorted([*files, *(ROOT / "recipes").glob("*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return f"fusedface {metadata.version('fusedface')}, sources {digest.hexdigest()[:16]}"


def record(runs: Iterable[PlannedRun], inputs: Inputs) -> None:
    """Write the inputs of new runs next to their directories."""
    for run in runs:
        path = run.folder.with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(inputs, indent=2) + "\n")


def conflicts(runs: Sequence[PlannedRun], inputs: Inputs, out: Path) -> list[str]:
    """Differences between the runs in a folder and the planned ones; empty if all fit.

    Args:
        runs: the planned runs.
        inputs: the inputs of these runs, see `inputs_of`.
        out: the folder; runs in it that are not planned must fit too.
    """
    planned = {run.folder: run.recipe for run in runs}
    found: dict[str, None] = {}  # used as an ordered set
    for folder in sorted((out / "runs").glob("*/seed*")):
        if folder.is_dir() and any(folder.iterdir()):
            lines = _recipe_differences(folder, planned.get(folder), runs[0].recipe)
            found |= dict.fromkeys([*lines, *_input_differences(folder, inputs)])
    return list(found)


def _recipe_differences(folder: Path, planned: Recipe | None, any_planned: Recipe) -> list[str]:
    if not (folder / RECIPE).is_file():  # killed before it began
        return []
    try:
        found = read_recipe(folder / RECIPE)
    except ValueError as error:
        return [str(error)]
    if planned is not None:
        return differences(planned, found)
    apart = (*OF_THE_LOSS, "train.seed:")
    return [line for line in differences(any_planned, found) if not line.startswith(apart)]


def _input_differences(folder: Path, inputs: Inputs) -> list[str]:
    path = folder.with_suffix(".json")
    if not path.exists():
        return [f"{folder.parent.name}/{path.name} is missing, which says what the run rests on"]
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        return [f"{path} cannot be read: {error}"]
    if not isinstance(before, dict):
        return [f"{path} cannot be read: it holds no table"]
    return [
        f"{key}: {inputs.get(key, 'none')} instead of {before.get(key, 'none')}"
        for key in dict.fromkeys([*inputs, *before])
        if inputs.get(key) != before.get(key)
    ]


def _digest(pairs: PairList) -> str:
    """The number of pairs, and a digest of the pairs and their images, wherever the images are."""
    digest = hashlib.sha256()
    for values in (pairs.first, pairs.second, pairs.same, pairs.fold):
        digest.update(values.astype("int64").tobytes())
    names = [pairs.images.describe(index) for index in range(len(pairs.images))]
    shared = len(os.path.commonpath(names))  # their folder
    for name in names:
        digest.update(name[shared:].encode("utf-8", "surrogateescape") + b"\0")
    files = fingerprint_of_files(pairs.images)
    return ", ".join(
        [f"{len(pairs)} pairs", f"digest {digest.hexdigest()}", *map(" ".join, files.items())]
    )
