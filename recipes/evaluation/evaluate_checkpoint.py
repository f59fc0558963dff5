"""`evaluate`: verification figures of a checkpoint, ours or a public one."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from fusedface.data import read_pairs
from fusedface.data.ijb import read_templates
from fusedface.models import build_from_checkpoint
from fusedface.recipes.evaluation.evaluate import evaluate_with_scores
from fusedface.recipes.evaluation.templates import (
    TEMPLATE_RATES,
    TemplateResult,
    evaluate_templates,
)
from fusedface.recipes.evaluation.verification import VerificationResult, roc
from fusedface.recipes.host.device import pick_device
from fusedface.recipes.host.terminal import Table, say, working
from fusedface.recipes.report.roc import plot_roc
from fusedface.recipes.run_directory.summary import figure_rows


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
) -> dict[str, VerificationResult]:
    """Print the figures of each list and IJB set; with `out`, write results.json and the ROC there.

    Args:
        checkpoint: ours or a public one.
        root: the folder the paths of the lists start from; without it that of each list.
        pair_lists: lists and .bin files.
        ijb_folders: see `read_templates`.
        out: a folder.
        device: such as "cpu"; without it a GPU if there is one.
        console: where the figures are printed.
        all_pairs: take TAR, AUC and rank-1 from all pairs of a list's images instead of the listed ones.

    Raises:
        ValueError: the checkpoint, a list or an image cannot be read, its embeddings are not finite, or
            all pairs cannot be had.
    """
    model = build_from_checkpoint(checkpoint).to(pick_device(device))
    results, curves = {}, {}
    for path in pair_lists:
        pairs = read_pairs(path, root)
        with working(console, f"{path.name}: {len(pairs)} pairs of {len(pairs.images)} images"):
            results[path.stem], scores = evaluate_with_scores(model, pairs, all_pairs=all_pairs)
        curves[path.stem] = roc(scores.genuine, scores.impostor)
    templates = {}
    for folder in ijb_folders:
        faces = read_templates(folder)
        with working(console, f"{folder.name}: {len(faces.images)} faces"):
            templates[folder.name], scores = evaluate_templates(model, faces)
        curves[folder.name] = roc(scores.genuine, scores.impostor)
    config = model.config
    taken = model.preprocessing
    height, width = taken.input_size
    say(
        console,
        f"{checkpoint.name}: {config['name']}, {height}x{width}, mirror features: {taken.flip}",
    )
    if results:
        console.print(results_table(results))
    if templates:
        console.print(templates_table(templates))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        figures = {name: result.as_dict() for name, result in results.items()}
        document = {"checkpoint": checkpoint.name, "backbone": config, "verification": figures}
        if templates:
            document["templates"] = {name: asdict(result) for name, result in templates.items()}
        (out / "results.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        plot_roc(curves, out / "roc.png")
        say(console, f"wrote results.json, roc.png and roc.svg to {out}")
    return results


def results_table(results: dict[str, VerificationResult]) -> Table:
    """A row a figure, a column a set; percent."""
    table = Table("", ["figure"], list(results))
    columns = [figure_rows(result.as_dict()) for result in results.values()]
    for label in {label: None for column in columns for label in column}:
        table.add_row(label, *(column.get(label, "-") for column in columns))
    return table


def templates_table(results: dict[str, TemplateResult]) -> Table:
    """A row a set; percent."""
    rates = [f"TAR at FAR {far:g}" for far in TEMPLATE_RATES]
    table = Table("", ["set"], ["templates", "pairs", *rates])
    for name, result in results.items():
        rates = ["-" if r is None else f"{100 * r:.2f}" for r in result.tar_at_far.values()]
        pairs = f"{result.num_genuine:,} + {result.num_impostor:,}"
        table.add_row(name, f"{result.num_templates:,}", pairs, *rates)
    return table
