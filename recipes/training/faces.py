"""Which faces a run learns from, and which it is verified on.

data.source    evaluation.pairs    verified on
any            one or more lists   the pairs of each list, named after its file
"synthetic"    none                pairs of generated people, none of them a training identity
a path         none                pairs of every tenth person of the source (5 to 500 people), who
                                   are then not trained on; fewer than 20 people are not verified
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusedface.data import (
    FaceDataset,
    FaceSource,
    PairList,
    SomeIdentities,
    SyntheticFaces,
    from_index_pairs,
    open_source,
    read_pairs,
    synthetic_pairs,
)
from fusedface.data.drawn_pairs import sample_pairs
from fusedface.data.overlap import overlaps
from fusedface.data.sizes import check_sizes, other_sizes
from fusedface.data.transforms import frame_size
from fusedface.models import Backbone, Preprocessing, create
from fusedface.recipes.configuration.recipe import SYNTHETIC, Evaluation, Recipe
from fusedface.recipes.evaluation.evaluate import evaluate_pairs

MIN_IDENTITIES = 20  # of a source that can spare some
HELD_OUT_SHARE = 10  # one in so many
MIN_HELD_OUT, MAX_HELD_OUT = 5, 500
STRANGERS = "none of its people is trained on"  # sure by construction


@dataclass(frozen=True)
class Faces:
    """Training images, and verification pairs by set name.

    `overlap` says of each set what its people have in common with those trained on.
    """

    train: FaceSource
    tests: dict[str, PairList]
    overlap: dict[str, str]

    def dataset(self, recipe: Recipe, preprocessing: Preprocessing) -> FaceDataset:
        """The training images as the network will see them."""
        return FaceDataset(self.train, recipe.data.augmentation, preprocessing, recipe.train.seed)

    def evaluate(self, model: Backbone) -> dict[str, dict[str, Any]]:
        """Verification figures of a network, by set name."""
        return {name: evaluate_pairs(model, pairs).as_dict() for name, pairs in self.tests.items()}


def open_faces(recipe: Recipe, device: torch.device, note: Callable[[str], None]) -> Faces:
    """Open everything a recipe reads; see the table above.

    Args:
        recipe: the experiment.
        device: where generated faces are rendered.
        note: told what a user should know of the choice.

    Raises:
        ValueError: a path is wrong, or holds no usable faces.
    """
    tests = _listed_tests(recipe.evaluation)
    if recipe.data.source == SYNTHETIC:
        faces = _generated(recipe, tests, device)
    else:
        faces = _from_files(recipe, tests, note)
    train = faces.train
    note(
        f"training on {len(train):,} images of {train.num_classes:,} people ({recipe.data.source})"
    )
    for name, pairs in faces.tests.items():
        counts = f"{len(pairs):,} pairs of {len(pairs.images):,} images"
        note(f"verifying on {name}: {counts}; {faces.overlap[name]}")
    return faces


def _from_files(recipe: Recipe, tests: dict[str, PairList], note: Callable[[str], None]) -> Faces:
    data, size = recipe.data, _frame_size(recipe)
    source = open_source(data.source, skip_bad=data.skip_bad)
    for line in source.notes:
        note(line)
    sizes = check_sizes(source, size, data.source, resize=data.resize)
    if sizes is not None:
        note(sizes)
    if not tests:
        train, tests = _hold_out(source, recipe.evaluation.num_pairs, note)
        return Faces(train, tests, dict.fromkeys(tests, STRANGERS))
    for name, pairs in tests.items():
        others = other_sizes(pairs.images, size)
        if others.num_others:
            note(f"{name}: {others}; they are scaled")
    found = overlaps(source, tests)
    return Faces(source, tests, {name: str(overlap) for name, overlap in found.items()})


def _frame_size(recipe: Recipe) -> tuple[int, int]:
    """(H, W) of the images that the network takes."""
    with torch.device("meta"):  # no weights are drawn
        return frame_size(create(**recipe.backbone.options()).preprocessing)


def _generated(recipe: Recipe, tests: dict[str, PairList], device: torch.device) -> Faces:
    people = recipe.data.synthetic
    train = SyntheticFaces(
        people.num_identities,
        people.images_per_identity,
        image_size=recipe.backbone.input_size,
        seed=people.seed,
        difficulty=people.difficulty,
        label_noise=people.label_noise,
        device=device,
    )
    if tests:
        return Faces(train, tests, dict.fromkeys(tests, "trained on generated people"))
    return Faces(train, {SYNTHETIC: _generated_test(recipe, device)}, {SYNTHETIC: STRANGERS})


def _listed_tests(evaluation: Evaluation) -> dict[str, PairList]:
    tests: dict[str, PairList] = {}
    for path in evaluation.pairs:
        name = Path(path).stem
        if name in tests:
            raise ValueError(f"evaluation.pairs must have different file names, got {name!r} twice")
        tests[name] = read_pairs(path, evaluation.root)
    return tests


def _generated_test(recipe: Recipe, device: torch.device) -> PairList:
    """Pairs of people who come after those of the training set in the same world; look-alikes too."""
    evaluation, people = recipe.evaluation, recipe.data.synthetic
    source = SyntheticFaces(
        evaluation.num_identities,
        evaluation.images_per_identity,
        image_size=recipe.backbone.input_size,
        seed=people.seed,
        difficulty=people.difficulty,
        first_identity=people.num_identities,
        device=device,
    )
    return from_index_pairs(source, *synthetic_pairs(source, evaluation.num_pairs))


def _hold_out(
    source: FaceSource, num_pairs: int, note: Callable[[str], None]
) -> tuple[FaceSource, dict[str, PairList]]:
    """Split a source by identity, by the rule of the table above."""
    total = source.num_classes
    if total < MIN_IDENTITIES:
        note(f"{total} people are too few to keep some back: without --pairs nothing is verified")
        return source, {}
    count = min(max(total // HELD_OUT_SHARE, MIN_HELD_OUT), MAX_HELD_OUT)
    held_out = np.linspace(0, total - 1, count).round().astype(int).tolist()
    trained = sorted(set(range(total)) - set(held_out))
    note(f"{count} of {total} people are kept back for verification; --pairs would use them all")
    pairs = sample_pairs(SomeIdentities(source, held_out), num_pairs)
    return SomeIdentities(source, trained), {"held-out": pairs}
