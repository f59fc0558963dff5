"""The model card of an exported file: origin, input, accuracy, thresholds, and known limits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusedface.models import count_macs, count_parameters
from fusedface.recipes.evaluation.input_contract import InputContract
from fusedface.recipes.evaluation.tables import (
    THRESHOLD_HEADINGS,
    threshold_notes,
    threshold_rows,
)
from fusedface.recipes.evaluation.threshold_file import SUFFIX
from fusedface.recipes.evaluation.thresholds import SetThresholds
from fusedface.recipes.export.check import HEADINGS, TOLERANCE, Check, check_rows
from fusedface.recipes.export.int8_layers import LAYER_HEADINGS
from fusedface.recipes.export.job import NUM_CALIBRATION
from fusedface.recipes.run_directory.verification_table import before_training, figure_rows

if TYPE_CHECKING:
    from fusedface.recipes.export.formats import Format
    from fusedface.recipes.export.source import Trained

FLIPS = {
    "sum": "the embedding of the image plus that of its mirror image",
    "concat": "the embedding of the image and that of its mirror image, one after the other",
}
LIMITS = """\
- It compares aligned faces; it neither finds nor aligns them. Alignment is the similarity transform of
  five landmarks to the 112x112 template of ArcFace.
- Thresholds do not carry over from one data set, network or format to another: choose one on faces
  like yours.
- Error rates differ between groups of people (age, sex, origin), as the training data has them.
  Nothing here measures by how much.
- The figures are of one network trained once: ± is the spread over the folds of a list, not over seeds.
"""
EIGHT_BITS = """\
- **8 bits: ONNX Runtime only.** Other software rounds elsewhere and says nothing: the default engine of
  OpenCV 5.0 and OpenVINO 2026.4 turned embeddings of a PReLU network to a cosine of 0.90 and 0.92 with the
  float32 ones, ONNX Runtime to 0.98; other versions may refuse the file. Use the float32 file there.
"""
LICENCE = """\
The licence of the training data is not known to this software, nor is whether the people in it agreed.
Many face data sets allow research only, or have been withdrawn; whoever passes this file on has to find
out.
"""


def model_card(
    trained: "Trained",
    kind: "Format",
    contract: InputContract,
    checks: Mapping[str, Check],
    sizes: Mapping[str, int],
    calibration: str | None,
    thresholds: Mapping[str, SetThresholds],
    layers: Sequence[Sequence[str]] = (),
) -> str:
    """The text of the card, in Markdown.

    Args:
        trained: the network.
        kind: the format of the described file.
        contract: the input of the file.
        checks: checks of this file, the other files and PyTorch, by name.
        sizes: file sizes in bytes, by name of the format.
        calibration: the source of the faces for 8-bit ranges; None if they were generated.
        thresholds: thresholds of this file by set.
        layers: the cosine of each 8-bit layer (`int8_layers.layer_rows`); empty for a float32 file.
    """
    file = f"{trained.name}{kind.suffix}"
    sections = {
        f"{file}": _summary(trained, kind),
        "Input": _input(trained, contract),
        "How to load it": _usage(kind, file, contract),
        "Training": _training(trained),
        "Measured when it was trained": _results(trained),
        "This file and PyTorch": _fidelity(checks, sizes, kind, calibration),
        **({"What 8 bits cost": _layers(layers)} if layers else {}),
        "Thresholds": _thresholds(file, thresholds),
        "Limits": LIMITS if kind.is_exact else LIMITS + EIGHT_BITS,
        "Licence": LICENCE,
    }
    (title, summary), *rest = sections.items()
    return f"# {title}\n\n{summary}" + "".join(f"\n## {name}\n\n{text}" for name, text in rest)


def _summary(trained: "Trained", kind: "Format") -> str:
    model = trained.model
    config = model.config
    parameters, macs = count_parameters(model), count_macs(model, model.input_size)
    return (
        f"Face recognition network {config['name']} (width {config['width']:g}): an aligned face to "
        f"{model.embedding_dim} numbers. Two photos are of one person where the cosine of their embeddings "
        f"is high.\n\n{parameters:,} parameters, {macs / 1e6:,.1f} M multiply-adds; format {kind.name}, "
        f"from {trained.checkpoint.name}.\n"
    )


def _input(trained: "Trained", contract: InputContract) -> str:
    taken = trained.model.preprocessing
    H, W = contract.size
    lines = [f"- Aligned face, RGB, {H}x{W} pixels (height x width), grey levels x from 0 to 255."]
    if contract.std == 1:
        means, stds = (", ".join(f"{v:g}" for v in vs) for vs in (taken.mean, taken.std))
        lines.append(
            f"- Fed as x itself: the graph subtracts {means} and divides by {stds} (R, G, B)."
        )
    else:
        lines.append(
            f"- Fed as (x - {contract.mean:g}) / {contract.std:g}. **OpenCV's `cv2.FaceRecognizerSF` feeds "
            "x itself**, and gets embeddings that are wrong without a word: for it, export with "
            "`--grey-levels`."
        )
    lines.append(f"- float32, channels first: (B, 3, {H}, {W}).")
    if taken.input_size != contract.size:
        height, width = taken.input_size
        lines.append(f"- The graph itself cuts the middle {height}x{width} out.")
    lines += [
        "- The embedding is not normalised: divide by its length before comparing.",
        f"- Verification figures rest on {FLIPS[taken.flip]}. **Mirroring is not part of the file**: run "
        "it on both images and join the embeddings, or use only the image at half the cost, with figures "
        "other than those below.",
    ]
    return "\n".join(lines) + "\n"


def _usage(kind: "Format", file: str, contract: InputContract) -> str:
    H, W = contract.size
    return f"```python\n{kind.usage.format(file=file, height=H, width=W)}```\n"


def _training(trained: "Trained") -> str:
    recipe, summary = trained.recipe_toml(), trained.summary
    if recipe is None:
        return (
            f"Not known: {trained.checkpoint.name} (layout {trained.loaded.layout}) says neither which "
            "data nor which recipe it was trained with.\n"
        )
    lines = []
    if summary is not None:
        lines.append(
            f"{summary.num_images:,} images of {summary.num_identities:,} people, "
            f"{summary.steps:,} steps on {summary.device}; verdict: {summary.verdict}."
        )
    lines.append(f"This checkpoint is of step {trained.loaded.step:,}. The recipe, with its data:")
    return "\n".join(lines) + f"\n\n```toml\n{recipe}```\n"


def _results(trained: "Trained") -> str:
    summary = trained.summary
    if summary is None or not summary.verification:
        return "No figures are known.\n"
    column = before_training(summary.init)
    rows = [f"| set | figure | {column} | trained |", "|---|---|---|---|"]
    for name, figures in summary.verification.items():
        before = figure_rows(summary.untrained.get(name))
        rows += [
            f"| {name} | {label} | {before.get(label, '-')} | {value} |"
            for label, value in figure_rows(figures).items()
        ]
    return "At the end of the run, in percent.\n\n" + "\n".join(rows) + "\n"


def _layers(rows: Sequence[Sequence[str]]) -> str:
    table = [LAYER_HEADINGS, ("---",) * len(LAYER_HEADINGS), *rows]
    return (
        "Cosine between the outputs of a layer here and in float32, over faces; what is lost in the layers "
        "before counts too. `--keep-float LAYER` leaves layers or blocks float32.\n\n"
        + "".join(f"| {' | '.join(row)} |\n" for row in table)
    )


def _thresholds(file: str, sets: Mapping[str, SetThresholds]) -> str:
    if not sets:
        return (
            "None are known: no pairs of real faces were given. Measure them on faces like yours, with "
            f"`fusedface export ... --pairs LIST --root FACES` or `fusedface evaluate {file} --root FACES "
            "--out RESULTS` (checkpoints and ONNX files).\n"
        )
    parts = [
        "Accept a pair whose cosine, of embeddings with mirror features joined, lies strictly above. "
        f"`{file}{SUFFIX}` has them for programs.\n"
    ]
    for name, found in sets.items():
        rows = [
            f"| {name}: FAR | {' | '.join(THRESHOLD_HEADINGS)} |",
            "|---" * (len(THRESHOLD_HEADINGS) + 1) + "|",
            *(f"| {' | '.join(row)} |" for row in threshold_rows(found)),
        ]
        notes = (f"- {note.replace('warning:', '**Warning:**')}" for note in threshold_notes(found))
        parts.append("\n".join([*rows, "", *notes]) + "\n")
    return "\n".join(parts)


def _fidelity(
    checks: Mapping[str, Check], sizes: Mapping[str, int], kind: "Format", calibration: str | None
) -> str:
    tables = []
    for list_name in next(iter(checks.values())).results:
        rows = [f"| {list_name} | {' | '.join(HEADINGS)} |", "|---" * (len(HEADINGS) + 1) + "|"]
        rows += [f"| {' | '.join(row)} |" for row in check_rows(list_name, checks, sizes)]
        tables.append("\n".join(rows))
    if kind.is_exact:
        rule = f"Embeddings of length 1 may differ from PyTorch's by {TOLERANCE:g} in a component."
    else:
        faces = "generated faces" if calibration is None else f"faces of {Path(calibration).name}"
        rule = f"Ranges of the 8-bit activations are from at most {NUM_CALIBRATION} {faces}."
    return "\n\n".join(tables) + (
        f"\n\n{rule} Rates are in percent, with both mirror images; error (of embeddings of length 1) and "
        "cosine are with PyTorch's embedding of the same image. Times are medians for one face of runs "
        "that took turns, on the machine that exported.\n"
    )
