"""Comparison of an exported file with PyTorch: embeddings, verification, time per face."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fusedface.data import PairList, read_batches
from fusedface.data.sources import Images
from fusedface.models import Backbone
from fusedface.recipes.evaluation.embedding import BATCH_SIZE
from fusedface.recipes.evaluation.evaluate import people_to_score
from fusedface.recipes.evaluation.input_contract import InputContract
from fusedface.recipes.evaluation.measure import Measured, measure
from fusedface.recipes.evaluation.thresholds import SetThresholds
from fusedface.recipes.evaluation.verification import VerificationResult
from fusedface.recipes.host.terminal import Table
from fusedface.recipes.run_directory.verification_table import figure_rows

TOLERANCE = 1e-4  # for float32 formats: difference in a component of an embedding of length 1
WARM_UP, ROUNDS = 3, 30
PYTORCH = "PyTorch"

Embed = Callable[[np.ndarray], np.ndarray]
"""Maps images (B, H, W, 3) uint8 RGB to embeddings (B, D)."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The comparison of one file with PyTorch."""

    results: dict[str, VerificationResult]
    """Verification figures by pair list."""
    thresholds: dict[str, SetThresholds]
    """Thresholds of this file by pair list; 8 bits change them."""
    max_error: float
    """Largest difference in a component of embeddings of length 1, over all images and mirror images."""
    min_cosine: float
    """Smallest cosine with PyTorch's embedding of the same image."""
    latency_ms: float
    """Median time for one face in milliseconds; the formats take turns."""


def embedders(
    model: Backbone, runs: Mapping[str, Embed], contract: InputContract
) -> dict[str, Embed]:
    """Embedding functions: PyTorch with the model's own preprocessing, and each file with its contract."""

    def pytorch(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            data = model.preprocessing.images_to_tensor(torch.from_numpy(images))
            return model(data).numpy()

    def through(run: Embed) -> Embed:
        return lambda images: run(contract.prepare(images))

    return {PYTORCH: pytorch, **{name: through(run) for name, run in runs.items()}}


def compare(
    embed: Mapping[str, Embed],
    pair_lists: Mapping[str, PairList],
    size: tuple[int, int],
    flip: str,
) -> dict[str, Check]:
    """Embed the images of all lists with PyTorch and all files, and compare.

    Args:
        embed: embedding functions by name; the others are compared with `PYTORCH`.
        pair_lists: pair lists by name.
        size: (H, W) to which images are scaled.
        flip: how mirror features are joined for verification, as in `Preprocessing`.

    Raises:
        ValueError: embeddings are not finite.
    """
    measured: dict[str, dict[str, Measured]] = {name: {} for name in embed}
    apart = {name: _Difference() for name in embed}
    for list_name, pairs in pair_lists.items():
        for name, embeddings in _embed_images(embed, pairs.images, size, flip, apart).items():
            if not np.isfinite(embeddings).all():
                raise ValueError(
                    f"format {name!r}: embeddings of {list_name} are not finite; nothing was written"
                )
            measured[name][list_name] = measure(embeddings, pairs, people_to_score(pairs))
    some_images = next(iter(pair_lists.values())).images
    times = latencies(embed, next(read_batches(some_images, size, 1)))
    return {
        name: Check(
            results={on: found.figures for on, found in measured[name].items()},
            thresholds={on: found.thresholds for on, found in measured[name].items()},
            max_error=apart[name].max_error,
            min_cosine=apart[name].min_cosine,
            latency_ms=times[name],
        )
        for name in embed
    }


@dataclass
class _Difference:
    """How far the embeddings of a file are from PyTorch's, over all images so far."""

    max_error: float = 0.0
    min_cosine: float = 1.0

    def add(self, unit: np.ndarray, reference: np.ndarray) -> None:
        """Take in embeddings (B, D) of length 1, and PyTorch's of the same images."""
        self.max_error = max(self.max_error, float(np.abs(unit - reference).max()))
        self.min_cosine = min(self.min_cosine, float((unit * reference).sum(1).min()))


def _embed_images(
    embed: Mapping[str, Embed],
    images: Images,
    size: tuple[int, int],
    flip: str,
    apart: Mapping[str, _Difference],
) -> dict[str, np.ndarray]:
    """Embeddings (N, D) of images and their mirror images, joined, by format; adds to `apart`."""
    features: dict[str, list[np.ndarray]] = {name: [] for name in embed}
    for batch in read_batches(images, size, BATCH_SIZE):
        both = np.concatenate([batch, batch[:, :, ::-1]])  # with their mirror images
        rows = {name: run(both).astype(np.float64) for name, run in embed.items()}
        reference = _unit(rows[PYTORCH])
        for name, row in rows.items():
            apart[name].add(_unit(row), reference)
            features[name].append(_join(row, flip))
    return {name: np.concatenate(parts) for name, parts in features.items()}


def latencies(embed: Mapping[str, Embed], face: np.ndarray) -> dict[str, float]:
    """Median milliseconds for one face (1, H, W, 3); all take turns, so that noise affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in embed}
    for _ in range(WARM_UP + ROUNDS):
        for name, run in embed.items():
            start = time.perf_counter()
            run(face)
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(values[WARM_UP:])) for name, values in times.items()}


def refuse_inexact(name: str, check: Check) -> None:
    """Raise ValueError if the embeddings of a float32 file are not PyTorch's."""
    if not check.max_error <= TOLERANCE:
        raise ValueError(
            f"format {name!r}: its embeddings (length 1) differ from PyTorch's by up to "
            f"{check.max_error:.2g}, allowed is {TOLERANCE:g}; nothing was written"
        )


HEADINGS = ("accuracy", "TAR at 1e-3", "max error", "min cosine", "ms", "MB")


def check_table(list_name: str, checks: Mapping[str, Check], sizes: Mapping[str, int]) -> Table:
    """One row per format, for one pair list; rates in percent."""
    table = Table(f"Verification on {list_name}", ["format"], HEADINGS)
    table.add_rows(check_rows(list_name, checks, sizes))
    return table


def check_rows(
    list_name: str, checks: Mapping[str, Check], sizes: Mapping[str, int]
) -> Iterator[list[str]]:
    """The cells of the table; error, cosine and time are those over all lists."""
    for name, check in checks.items():
        figures = figure_rows(check.results[list_name].as_dict())
        verified = [next(iter(figures.values())), figures.get("TAR at FAR 0.001", "-")]
        exported = ["-", "-"]
        if name != PYTORCH:
            exported = [f"{check.max_error:.1e}", f"{check.min_cosine:.5f}"]
        size = f"{sizes[name] / 1e6:.2f}" if name in sizes else "-"
        yield [name, *verified, *exported, f"{check.latency_ms:.2f}", size]


def _join(row: np.ndarray, flip: str) -> np.ndarray:
    one, other = np.split(row, 2)
    return np.concatenate([one, other], axis=1) if flip == "concat" else one + other


def _unit(row: np.ndarray) -> np.ndarray:
    return row / np.maximum(np.linalg.norm(row, axis=1, keepdims=True), 1e-12)
