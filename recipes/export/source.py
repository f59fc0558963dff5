"""The network to export, and the faces that it is checked with."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedface.data import (
    PairList,
    SyntheticFaces,
    from_index_pairs,
    open_source,
    synthetic_pairs,
)
from fusedface.data.dataset import read_readable
from fusedface.data.transforms import fit
from fusedface.models import Backbone, LoadedCheckpoint, build_from_checkpoint, load_checkpoint
from fusedface.recipes.evaluation.pair_lists import read_lists
from fusedface.recipes.export.job import NUM_CALIBRATION
from fusedface.recipes.run_directory.directory import RECIPE
from fusedface.recipes.run_directory.summary import SUMMARY, Summary, read_summary
from fusedface.recipes.training.checkpoint_folder import BEST, PATTERN

NUM_PEOPLE, IMAGES_EACH, NUM_PAIRS = 20, 6, 300  # of generated faces, if no pair list is given
SEED = r"seed\d+"  # a run directory of a comparison


@dataclass(frozen=True)
class Trained:
    """A trained network and facts on it.

    Args:
        name: of the run directory, or of the file; files are named after it.
        checkpoint: the file.
        model: in evaluation mode, on the CPU.
        loaded: layout, preprocessing, step.
        run: the run directory of the checkpoint, if any.
        summary: of the run; None if it has none.
    """

    name: str
    checkpoint: Path
    model: Backbone
    loaded: LoadedCheckpoint
    run: Path | None
    summary: Summary | None

    def recipe_toml(self) -> str | None:
        """The recipe of the run as TOML; None without a run."""
        return None if self.run is None else (self.run / RECIPE).read_text(encoding="utf-8")


def open_trained(path: Path) -> Trained:
    """Load the best checkpoint of a run directory (else the newest), or a checkpoint file.

    Raises:
        ValueError: the folder has no checkpoint, a checkpoint cannot be loaded, or its run's summary is
            damaged.
    """
    checkpoint = _checkpoint_of(path) if path.is_dir() else path
    model = build_from_checkpoint(checkpoint)
    loaded = load_checkpoint(model, checkpoint)
    run = checkpoint.resolve().parent.parent
    if loaded.layout != "fusedface" or not (run / RECIPE).is_file():
        return Trained(checkpoint.stem, checkpoint, model, loaded, None, None)
    summary = read_summary(run / SUMMARY) if (run / SUMMARY).is_file() else None
    return Trained(_name_of(run), checkpoint, model, loaded, run, summary)


def _name_of(run: Path) -> str:
    """Of a run directory; if that is only a seed, with the folder around it, in a comparison the loss."""
    return f"{run.parent.name}-{run.name}" if re.fullmatch(SEED, run.name) else run.name


def _checkpoint_of(run: Path) -> Path:
    folder = run / "checkpoints"
    found = [folder / BEST] if (folder / BEST).is_file() else sorted(folder.glob(PATTERN))
    if not found:
        raise ValueError(
            f"{run} holds no checkpoint: neither checkpoints/{BEST} nor checkpoints/{PATTERN}; "
            "give a run directory or a checkpoint file"
        )
    return found[-1]


def calibration_faces(data: str | None, size: tuple[int, int]) -> np.ndarray:
    """Faces (N, H, W, 3) uint8 for the ranges of activations: from `data`, else generated.

    Raises:
        ValueError: `data` is not a source of faces.
    """
    source = (
        SyntheticFaces(NUM_CALIBRATION // 4, 4, image_size=size, first_identity=NUM_PEOPLE)
        if data is None
        else open_source(data)
    )
    chosen = np.random.default_rng(0).permutation(len(source))[:NUM_CALIBRATION]
    images = read_readable(source, chosen.tolist()).images
    return np.stack([fit(image, size) for image in images])


def checking_pairs(
    lists: Sequence[Path], root: Path | None, size: tuple[int, int]
) -> dict[str, PairList]:
    """The pair lists by name; without any, pairs of generated people.

    Raises:
        ValueError: see `read_lists`.
    """
    if lists:
        return read_lists(lists, root)
    source = SyntheticFaces(NUM_PEOPLE, IMAGES_EACH, image_size=size)
    return {"generated": from_index_pairs(source, *synthetic_pairs(source, NUM_PAIRS))}
