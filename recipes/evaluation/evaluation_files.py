"""Writes the files of `evaluate --out`: figures, thresholds, scores, plots, and the worst mistakes."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fusedface.recipes.evaluation.calibration import observed_shares
from fusedface.recipes.evaluation.measure import Measured
from fusedface.recipes.evaluation.mistakes import draw_mistakes
from fusedface.recipes.evaluation.rates import roc
from fusedface.recipes.evaluation.score_file import write_scores
from fusedface.recipes.evaluation.scores import PairScores
from fusedface.recipes.evaluation.templates import TemplateResult
from fusedface.recipes.evaluation.threshold_file import ModelFile, write_thresholds
from fusedface.recipes.report.calibration import CalibrationCurve, plot_calibration
from fusedface.recipes.report.cmc import plot_cmc
from fusedface.recipes.report.roc import plot_det, plot_roc
from fusedface.recipes.run_directory.files import write_text

CURVE_POINTS = 200


def write_evaluation(
    out: Path,
    model: ModelFile,
    network: Mapping[str, Any],
    measured: Mapping[str, Measured],
    templates: Mapping[str, tuple[TemplateResult, PairScores]],
) -> list[str]:
    """Write all files of an evaluation.

    Args:
        out: a folder that exists.
        model: the evaluated file.
        network: facts on it for results.json.
        measured: results by set name.
        templates: results of IJB sets by name.

    Returns:
        The names of the written files.
    """
    document = {"checkpoint": model.file, **network}
    document["verification"] = {name: found.as_dict() for name, found in measured.items()}
    if templates:
        document["templates"] = {name: asdict(result) for name, (result, _) in templates.items()}
    write_text(out / "results.json", json.dumps(document, indent=2) + "\n")
    scores = {name: found.scores for name, found in measured.items()}
    scores |= {name: found for name, (_, found) in templates.items()}
    written = ["results.json", *_plot_rates(out, scores)]
    if measured:
        thresholds = {name: found.thresholds for name, found in measured.items()}
        write_thresholds(out / "thresholds.json", model, thresholds)
        written += ["thresholds.json", *_plot_calibrations(out, measured)]
    searched = {n: f.identification.cmc for n, f in measured.items() if f.identification}
    if searched:
        plot_cmc(searched, out / "cmc.png")
        written += ["cmc.png", "cmc.svg"]
    for name, found in measured.items():
        write_scores(found, out / f"scores-{name}.csv")
        draw_mistakes(found, out / f"mistakes-{name}.png")
        written += [f"scores-{name}.csv", f"mistakes-{name}.png"]
    return written


def _plot_rates(out: Path, scores: Mapping[str, PairScores]) -> list[str]:
    """Plot the true against the false accept rates of all sets; returns the names of the files."""
    curves = {name: roc(found.genuine, found.impostor) for name, found in scores.items()}
    plot_roc(curves, out / "roc.png")
    plot_det(curves, out / "det.png")
    return ["roc.png", "roc.svg", "det.png", "det.svg"]


def _plot_calibrations(out: Path, measured: Mapping[str, Measured]) -> list[str]:
    """Plot cosines against probabilities; returns the names of the files."""
    curves = {name: _calibration_curve(found) for name, found in measured.items()}
    plot_calibration(curves, out / "calibration.png")
    return ["calibration.png", "calibration.svg"]


def _calibration_curve(found: Measured) -> CalibrationCurve:
    cosine = np.linspace(found.scores.cosine.min(), found.scores.cosine.max(), CURVE_POINTS)
    shares = observed_shares(found.scores.genuine, found.scores.impostor)
    return CalibrationCurve(cosine, found.thresholds.calibration.probability(cosine), *shares)
