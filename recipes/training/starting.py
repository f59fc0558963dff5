"""The start of a run from a checkpoint: its weights, and class centres from embeddings of the people."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from fusedface.data import FaceSource
from fusedface.models import Backbone, MarginHead, StartingPoint
from fusedface.models.starting_point import Classes
from fusedface.recipes.configuration.data import SYNTHETIC, Data
from fusedface.recipes.configuration.digest import sha256
from fusedface.recipes.configuration.fields import build
from fusedface.recipes.configuration.init import Centres, Init
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.people import embed_people

if TYPE_CHECKING:
    from fusedface.recipes.training.learner import Learner


def read_start(init: Init, name: str) -> StartingPoint | None:
    """The checkpoint that a run begins with; None if it begins with drawn weights.

    Args:
        init: the settings `init.*` of its recipe.
        name: the name of its recipe.

    Raises:
        ValueError: the file is missing, damaged, or not the one in the recipe; or the recipe requires a
            checkpoint and has none.
    """
    if init.checkpoint is None:
        if init.required:
            raise ValueError(
                f"{name} begins with the weights of a checkpoint: name it with --init CHECKPOINT "
                "(--set init.required=false draws weights instead)"
            )
        return None
    start = StartingPoint(init.checkpoint)
    if sha256(start.path) != init.sha256:
        raise ValueError(
            f"{init.checkpoint} has changed: it is not the file that the recipe names by its SHA-256 "
            f"{init.sha256}; restore it, or begin with this one by --init"
        )
    return start


def load_weights(start: StartingPoint, learner: "Learner", note: Callable[[str], None]) -> None:
    """Load a checkpoint's backbone, and tell which tensors did not fit.

    Args:
        start: the checkpoint.
        learner: with drawn weights; its backbone is changed in place, and its average begins again.
        note: called with a text on each tensor that did not fit.
    """
    for line in start.load(learner.model):
        note(f"not taken from {start.path}, and as drawn: {line}")
    learner.restart_average()


def place_centres(
    head: MarginHead,
    model: Backbone,
    source: FaceSource,
    start: StartingPoint,
    centres: Centres,
    data: Data,
    processes: Processes,
    note: Callable[[str], None],
) -> None:
    """Set the class centres as `init.centres` says, and the state of the margin to match.

    A centre at a mean embedding has length 1; a centre of the checkpoint keeps its length. A person without
    a readable image keeps the drawn centre. State that follows target cosines (CurricularFace's t) begins
    at their mean over all images.

    Args:
        head: with drawn centres; changed in place.
        model: with the checkpoint's weights.
        source: the training images.
        start: the checkpoint.
        centres: `init.centres` of the run's recipe.
        data: the settings `data.*` of that recipe.
        processes: those of the run; each places its own class centres, from the images of its own people.
        note: called with texts on what is done.

    Raises:
        ValueError: class centres of the checkpoint are missing or damaged, or embeddings are not finite;
            raised on every rank.
    """
    if centres == "random":
        return
    note(f"embedding {len(source):,} images for the class centres")
    with processes.together():
        people = embed_people(model, source, head.classes)
    means = F.normalize(people.sums)
    seen = means.square().sum(dim=1) > 0.5  # False without images, or if they cancel out
    placed = head.weight.detach().to("cpu", torch.float64, copy=True)
    placed[seen] = means[seen]
    kept: Sequence[int] = ()
    if centres == "checkpoint" and (classes := start.classes) is not None:
        with processes.together():
            kept = _keep_centres(placed, classes, head.classes, source.class_names, data, note)
    means_used = int(seen.sum()) - sum(bool(seen[j]) for j in kept)
    along = (people.sums * F.normalize(placed)).sum().item()
    own = (along, people.counts.sum().item(), len(kept), means_used)
    all_along, num_images, num_kept, num_means = (
        sum(values) for values in zip(*processes.gather(own), strict=True)
    )
    cosine = all_along / num_images
    with torch.no_grad():
        head.weight.copy_(placed)
        for name, value in head.margin.state_at(cosine).items():
            head.get_buffer(name).fill_(value)
    note(
        f"class centres: {num_kept:,} kept by name, {num_means:,} at the mean of their images; mean "
        f"target cosine {cosine:.3f}"
    )


def _keep_centres(
    placed: Tensor,
    classes: Classes,
    own: range,
    names: Sequence[str],
    data: Data,
    note: Callable[[str], None],
) -> list[int]:
    """Place the checkpoint's centres of the people who are in it too; returns their rows in `placed`.

    Args:
        placed: (len(own), D) float64, changed in place.
        classes: the checkpoint's classes.
        own: the run's classes of this process.
        names: the run's class names.
        data: see `place_centres`.
        note: see `place_centres`.
    """
    if classes.dim != placed.shape[1]:
        note(
            f"the class centres of the checkpoint have {classes.dim} dimensions, these "
            f"{placed.shape[1]}: none is kept"
        )
        return []
    same = same_people(classes, names, data)
    kept = {ours - own.start: theirs for ours, theirs in same.items() if ours in own}
    placed[list(kept)] = classes.centres_of(list(kept.values())).double()
    return list(kept)


def same_people(classes: Classes, names: Sequence[str], data: Data) -> dict[int, int]:
    """The classes of a run that are also classes of its checkpoint: our index -> index there.

    People are matched by name. Numbers, and names of generated people, match only if the data are the same.
    A name of several classes matches nothing.

    Args:
        classes: the checkpoint's class names.
        names: the run's class names.
        data: the data settings of the run's recipe.
    """
    same_data = _same_data(classes.data, data)
    theirs = _unique(classes.names)
    return {
        ours: theirs[name]
        for name, ours in _unique(names).items()
        if name in theirs and (same_data or not (name.isdigit() or data.source == SYNTHETIC))
    }


def _unique(names: Sequence[str]) -> dict[str, int]:
    counts = Counter(names)
    return {name: i for i, name in enumerate(names) if counts[name] == 1}


def _same_data(theirs: dict, ours: Data) -> bool:
    """Whether the people in a checkpoint's training images are numbered as in those of a run."""
    try:
        before = build(Data, theirs, "data.")
    except (ValueError, TypeError):
        return False
    if ours.source != SYNTHETIC:
        return before.source == ours.source
    sizes = {"num_identities": 2, "images_per_identity": 1, "label_noise": 0.0}
    return before.source == SYNTHETIC and (
        replace(before.synthetic, **sizes) == replace(ours.synthetic, **sizes)
    )
