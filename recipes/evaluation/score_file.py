"""Scores of listed pairs as CSV, for other software and for inspection."""

import csv
import io
from pathlib import Path

from fusedface.data.sources.images import printable
from fusedface.recipes.evaluation.measure import Measured
from fusedface.recipes.run_directory.files import write_text

HEADER = ("path1", "path2", "same", "fold", "cosine", "probability")


def write_scores(measured: Measured, path: Path) -> None:
    """Write one line per listed pair: both images, 1 for a genuine pair, fold, cosine, probability."""
    pairs, cosine = measured.pairs, measured.listed.cosine
    probability = measured.thresholds.calibration.probability(cosine)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for p in range(len(pairs)):
        names = (printable(pairs.images.describe(int(i[p]))) for i in (pairs.first, pairs.second))
        numbers = repr(float(cosine[p])), f"{probability[p]:.6g}"
        writer.writerow([*names, int(pairs.same[p]), int(pairs.fold[p]), *numbers])
    write_text(path, text.getvalue())
