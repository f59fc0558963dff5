"""Compares two faces, or a face and a gallery: cosines, probabilities and decisions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedface.data.gallery import face_files, read_gallery
from fusedface.recipes.evaluation.aligned import refuse_unaligned
from fusedface.recipes.evaluation.recogniser import Recogniser
from fusedface.recipes.evaluation.scores import unit
from fusedface.recipes.evaluation.threshold_file import SUFFIX, thresholds_of
from fusedface.recipes.evaluation.thresholds import OperatingPoint, SetThresholds


@dataclass(frozen=True)
class Rule:
    """The rule that accepts two faces as one person.

    Args:
        set_name: the set on which the threshold was measured.
        thresholds: all thresholds of that set.
        point: the threshold at the requested false accept rate.
    """

    set_name: str
    thresholds: SetThresholds
    point: OperatingPoint

    def accepts(self, cosine: float) -> bool:
        """Whether a cosine is above the threshold."""
        return cosine > self.point.threshold

    def probability(self, cosine: float) -> float:
        """Probability of one person at this cosine, if half of all comparisons are of one person."""
        return float(self.thresholds.calibration.probability(cosine))

    def describe(self) -> str:
        """One line on the rule."""
        point = self.point
        unsure = "" if point.is_supported else f", too few: {point.num_allowed} false accepts"
        return (
            f"threshold {point.threshold:.4f} at FAR {point.far:g} ({point.threshold_interval.low:.4f} to "
            f"{point.threshold_interval.high:.4f}), from {self.set_name}: "
            f"{self.thresholds.num_impostor:,} impostor pairs{unsure}"
        )


@dataclass(frozen=True)
class Candidate:
    """A person of a gallery, and the mean cosine of the person's images with a probe."""

    person: str
    num_images: int
    cosine: float


def find_rule(
    model: Path, thresholds: Path | None, set_name: str | None, far: float
) -> Rule | None:
    """The rule of a thresholds.json, or of MODEL.thresholds.json next to the model; None if neither exists.

    Raises:
        ValueError: the file is damaged, of another model, or has no threshold at this rate.
    """
    beside = model.with_name(model.name + SUFFIX)
    if thresholds is None and not beside.is_file():
        return None
    name, found = thresholds_of(beside if thresholds is None else thresholds, model, set_name)
    return Rule(name, found, found.at(far))


def cosine_of(recogniser: Recogniser, one: Path, other: Path) -> float:
    """The cosine of two aligned faces, in [-1, 1].

    Raises:
        ValueError: an image cannot be read or is not an aligned crop.
    """
    _refuse_folders(one, other)
    vectors = embed_files(recogniser, [one, other])[1]
    first, second = unit(vectors)
    return float(np.clip(first @ second, -1, 1))


def embed_files(recogniser: Recogniser, paths: list[Path]) -> tuple[list[str], np.ndarray]:
    """The images of paths and folders, and their embeddings (N, D) float64, not normalised.

    Raises:
        ValueError: an image cannot be read or is not an aligned crop.
    """
    images = face_files(paths)
    refuse_unaligned(images, recogniser.size)
    return images.paths, recogniser.embed(images)


def search(recogniser: Recogniser, probe: Path, gallery: Path) -> list[Candidate]:
    """The people of a gallery, the most similar first, by the mean cosine of their images with the probe.

    A threshold of single images holds for this mean: it is an average of such cosines, so strangers exceed
    a high threshold no more often. The cosine with the mean embedding would be this mean divided by the
    length of the mean, and strangers would exceed the threshold more often.

    Raises:
        ValueError: an image cannot be read or is not an aligned crop, or the gallery has no images.
    """
    _refuse_folders(probe)
    images, people = read_gallery(gallery)
    (vector,) = unit(embed_files(recogniser, [probe])[1])
    refuse_unaligned(images, recogniser.size)
    names, which, counts = np.unique(people, return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), len(vector)))
    np.add.at(sums, which, unit(recogniser.embed(images)))
    cosines = np.clip(sums @ vector / counts, -1, 1)
    order = np.argsort(-cosines, kind="stable")
    return [Candidate(str(names[i]), int(counts[i]), float(cosines[i])) for i in order]


def _refuse_folders(*faces: Path) -> None:
    """Raise ValueError for a folder in place of a face."""
    for path in faces:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the image of one face")
