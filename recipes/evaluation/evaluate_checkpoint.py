"""`evaluate`: figures, thresholds and mistakes of a network, from a checkpoint or an ONNX file."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from fusedface.data import PairList, open_source
from fusedface.data.drawn_pairs import fewer_people, sample_pairs
from fusedface.data.ijb import read_templates
from fusedface.data.sizes import scaled_note
from fusedface.recipes.evaluation.evaluate import MAX_ALL_PAIRS, people_to_score
from fusedface.recipes.evaluation.evaluation_files import write_evaluation
from fusedface.recipes.evaluation.measure import Measured, measure
from fusedface.recipes.evaluation.out_folder import existing_folder
from fusedface.recipes.evaluation.pair_lists import check_names, read_lists
from fusedface.recipes.evaluation.recogniser import Recogniser
from fusedface.recipes.evaluation.recognisers import open_recogniser
from fusedface.recipes.evaluation.scores import PairScores
from fusedface.recipes.evaluation.tables import (
    fixed_table,
    results_table,
    templates_table,
    threshold_notes,
    thresholds_table,
)
from fusedface.recipes.evaluation.templates import TemplateResult, template_figures
from fusedface.recipes.evaluation.threshold_file import model_file, thresholds_of_model
from fusedface.recipes.evaluation.thresholds import SetThresholds
from fusedface.recipes.host.terminal import say, working

NUM_DRAWN = 6000
"""Number of pairs drawn from a folder for accuracy, as in LFW; rates use all pairs of its images."""
MAX_DRAWN_IMAGES = int(math.sqrt(2 * MAX_ALL_PAIRS))


def evaluate_checkpoint(
    checkpoint: Path,
    root: Path | None,
    pair_lists: Sequence[Path],
    ijb_folders: Sequence[Path],
    out: Path | None,
    device: str | None,
    console: Console,
    *,
    all_pairs: bool = False,
    fixed: Path | None = None,
) -> dict[str, Measured]:
    """Print the figures and thresholds of each list and IJB set; with `out`, write all results.

    Args:
        checkpoint: ours, a public one, or an ONNX file.
        root: the folder that paths in the lists are relative to; None takes the folder of each list. If
            there is no list and no IJB set, labelled faces to draw pairs from.
        pair_lists: lists and .bin files.
        ijb_folders: see `read_templates`.
        out: a folder; see `evaluation_files`.
        device: such as "cpu"; None takes a GPU if there is one.
        console: where the figures are printed.
        all_pairs: take TAR, AUC and rank-1 from all pairs of a list's images instead of the listed ones.
        fixed: a thresholds.json of this network on other data; its thresholds are tested on these sets.

    Raises:
        ValueError: the checkpoint, a list or an image cannot be read, embeddings are not finite, all pairs
            are not possible, `fixed` is of another network, or `out` is a file.
    """
    known = None if fixed is None else thresholds_of_model(fixed, checkpoint)
    recogniser = open_recogniser(checkpoint, device)
    check_names([path.stem for path in pair_lists] + [folder.name for folder in ijb_folders])
    sets = read_lists(pair_lists, root)
    if not pair_lists and not ijb_folders:
        assert root is not None  # the command requires one
        sets[root.resolve().name] = drawn_pairs(root, lambda text: say(console, text))
    if out is not None:
        existing_folder(out)
        out.mkdir(parents=True, exist_ok=True)
    chosen = True if all_pairs and pair_lists else None
    measured = {name: _measure(recogniser, name, of, chosen, console) for name, of in sets.items()}
    templates = {folder.name: _templates(recogniser, folder, console) for folder in ijb_folders}
    say(console, recogniser.describe())
    if measured:
        _print(measured, console)
    if templates:
        console.print(templates_table({name: result for name, (result, _) in templates.items()}))
    if measured:
        _print_fixed(measured, {} if known is None else known.sets, console)
    if out is not None:
        model = model_file(checkpoint)
        written = write_evaluation(out, model, recogniser.as_dict(), measured, templates)
        say(console, f"wrote to {out}: {', '.join(written)}")
    return measured


def drawn_pairs(root: Path, note: Callable[[str], None]) -> PairList:
    """Pairs drawn from the labelled faces of a folder (or pack, or list); always the same pairs.

    Raises:
        ValueError: it holds no faces, too few genuine pairs, or no impostor pairs.
    """
    source = open_source(root)
    for text in source.notes:
        note(text)
    fewer = fewer_people(source, MAX_DRAWN_IMAGES)
    pairs = sample_pairs(fewer, NUM_DRAWN, whole=True)
    if fewer is not source:
        note(
            f"{root}: {fewer.num_classes:,} of {source.num_classes:,} people are taken, with "
            f"{len(fewer):,} images: all pairs of images are scored up to {MAX_ALL_PAIRS:,}"
        )
    return pairs


def _measure(
    recogniser: Recogniser, name: str, pairs: PairList, all_pairs: bool | None, console: Console
) -> Measured:
    """Embed the images of a set and measure."""
    if note := scaled_note(pairs.images, recogniser.size, name):
        say(console, note)
    people = people_to_score(pairs, all_pairs)
    with working(console, f"{name}: {len(pairs)} pairs of {len(pairs.images)} images"):
        return measure(recogniser.embed(pairs.images), pairs, people)


def _templates(
    recogniser: Recogniser, folder: Path, console: Console
) -> tuple[TemplateResult, PairScores]:
    """The figures of an IJB set, and the scores behind them."""
    faces = read_templates(folder)
    with working(console, f"{folder.name}: {len(faces.images)} faces"):
        return template_figures(recogniser.embed(faces.images), faces)


def _print(measured: Mapping[str, Measured], console: Console) -> None:
    """Print figures and thresholds of all sets."""
    console.print(results_table(measured))
    thresholds = {name: found.thresholds for name, found in measured.items()}
    console.print(thresholds_table(thresholds))
    for name, found in thresholds.items():
        for text in threshold_notes(found):
            say(console, f"{name}: {text}", "yellow" if text.startswith("warning") else "")


def _print_fixed(
    measured: Mapping[str, Measured], known: Mapping[str, SetThresholds], console: Console
) -> None:
    """Print the rates of each set at thresholds of other data: known ones, and those of the other sets."""
    others = {f"{name} (known)": found for name, found in known.items()}
    if len(measured) > 1:
        others |= {name: found.thresholds for name, found in measured.items()}
    if others:
        console.print(fixed_table(others, measured))
