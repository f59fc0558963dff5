"""The faces that a run is trained and verified on.

data.source    evaluation.pairs    verified on
any            one or more lists   the pairs of each list, named after its file
"synthetic"    none                pairs of generated people, none of them a training identity
a path         none                pairs of every tenth person of the source (5 to 500 people), who
                                   are then not trained on; fewer than 20 people are not verified
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from fusedface.data import (
    FaceSource,
    PairList,
    SomeIdentities,
    SyntheticFaces,
    check_sizes,
    from_index_pairs,
    open_source,
    overlaps,
    synthetic_pairs,
)
from fusedface.data.drawn_pairs import sample_pairs
from fusedface.data.sizes import scaled_note
from fusedface.models import Backbone, Preprocessing
from fusedface.recipes.configuration.data import SYNTHETIC, Data, Synthetic
from fusedface.recipes.configuration.evaluation import Evaluation
from fusedface.recipes.evaluation.pair_lists import read_lists
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.run_directory.metrics import Verification
from fusedface.recipes.training.verifying import evaluate_shared

Note = Callable[[str], None]

MIN_IDENTITIES = 20  # of a source from which people are held out
HELD_OUT_SHARE = 10  # one person in this many
MIN_HELD_OUT, MAX_HELD_OUT = 5, 500
STRANGERS = "none of its people is trained on"  # true by construction


@dataclass(frozen=True)
class Faces:
    """Training images, and verification pairs by set name.

    `overlap` describes, for each set, the people and images that it shares with the training images.
    """

    train: FaceSource
    tests: dict[str, PairList]
    overlap: dict[str, str]

    def evaluate(self, model: Backbone, processes: Processes | None = None) -> Verification:
        """Verification figures of a network, by set name; with several processes, all must call it."""
        ranks = processes or Processes()
        return {
            name: evaluate_shared(model, pairs, ranks).as_dict()
            for name, pairs in self.tests.items()
        }


def open_faces(
    data: Data,
    evaluation: Evaluation,
    preprocessing: Preprocessing,
    device: torch.device,
    note: Note,
) -> Faces:
    """Open the training images and verification sets of a run; see the table above.

    Args:
        data: settings of the training images.
        evaluation: settings of the verification sets.
        preprocessing: that of the network.
        device: where generated faces are rendered.
        note: called with texts for the user on what was chosen.

    Raises:
        ValueError: a path is wrong, or holds no usable faces; or a list is not fit for figures.
    """
    tests = read_lists(evaluation.pairs, evaluation.root)
    if data.source == SYNTHETIC:
        faces = _generated(data.synthetic, evaluation, tests, preprocessing.image_size, device)
    else:
        faces = _from_files(data, evaluation, tests, preprocessing.image_size, note)
    _describe(faces, data.source, note)
    return faces


def _describe(faces: Faces, source: str, note: Note) -> None:
    train = faces.train
    note(f"training on {len(train):,} images of {train.num_classes:,} people ({source})")
    for name, pairs in faces.tests.items():
        counts = f"{len(pairs):,} pairs of {len(pairs.images):,} images"
        note(f"verifying on {name}: {counts}; {faces.overlap[name]}")


def _from_files(
    data: Data,
    evaluation: Evaluation,
    tests: dict[str, PairList],
    size: tuple[int, int],
    note: Note,
) -> Faces:
    source = open_source(data.source, skip_bad=data.skip_bad)
    for line in source.notes:
        note(line)
    sizes = check_sizes(source, size, data.source, resize=data.resize)
    if sizes is not None:
        note(sizes)
    if not tests:
        train, tests = _hold_out(source, evaluation.num_pairs, note)
        return Faces(train, tests, dict.fromkeys(tests, STRANGERS))
    for name, pairs in tests.items():
        if scaled := scaled_note(pairs.images, size, name):
            note(scaled)
    found = overlaps(source, tests)
    return Faces(source, tests, {name: str(overlap) for name, overlap in found.items()})


def _generated(
    people: Synthetic,
    evaluation: Evaluation,
    tests: dict[str, PairList],
    size: tuple[int, int],
    device: torch.device,
) -> Faces:
    """Generated training faces; without `tests`, verification uses further people of the same generator."""
    world = partial(
        SyntheticFaces,
        image_size=size,
        seed=people.seed,
        difficulty=people.difficulty,
        device=device,
    )
    train = world(people.num_identities, people.images_per_identity, label_noise=people.label_noise)
    if tests:
        return Faces(train, tests, dict.fromkeys(tests, "trained on generated people"))
    strangers = world(
        evaluation.num_identities,
        evaluation.images_per_identity,
        first_identity=people.num_identities,
    )
    pairs = from_index_pairs(strangers, *synthetic_pairs(strangers, evaluation.num_pairs))
    return Faces(train, {SYNTHETIC: pairs}, {SYNTHETIC: STRANGERS})


def _hold_out(
    source: FaceSource, num_pairs: int, note: Note
) -> tuple[FaceSource, dict[str, PairList]]:
    """Split a source by person, by the rule of the table above."""
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
