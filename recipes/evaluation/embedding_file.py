"""embeddings.npz: embeddings of images, for NumPy and other software."""

from pathlib import Path

import numpy as np

from fusedface.data.sources.images import printable
from fusedface.recipes.evaluation.threshold_file import ModelFile
from fusedface.recipes.run_directory.files import atomic_file

SUFFIX = ".npz"


def check_name(path: Path) -> None:
    """Raise ValueError unless a file of this name can be written."""
    if path.suffix != SUFFIX:
        raise ValueError(f"the file of embeddings must end in {SUFFIX}, got {path}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"the folder of {path} does not exist")


def write_embeddings(
    path: Path, names: list[str], embeddings: np.ndarray, model: ModelFile
) -> None:
    """Write `embeddings` (N, D) float32, not normalised, `paths` (N,), and the model's name and SHA-256.

    Text is stored as arrays of characters: `numpy.load` reads all of it without pickle.
    """
    with atomic_file(path) as file:
        np.savez(
            file,
            embeddings=embeddings.astype(np.float32),
            paths=np.array([printable(name) for name in names]),
            model=np.array(model.file),
            model_sha256=np.array(model.sha256),
        )
