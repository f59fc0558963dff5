"""evaluate_checkpoint: what it prints, what it writes, and which pairs it scores by default."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from face_files import write_people
from rich.console import Console

from fusedface.models import create
from fusedface.models.checkpoints import FORMAT, VERSION
from fusedface.recipes.evaluation.evaluate_checkpoint import evaluate_checkpoint
from fusedface.recipes.evaluation.identification import Identification
from fusedface.recipes.evaluation.tables import results_table, templates_table
from fusedface.recipes.evaluation.templates import TEMPLATE_RATES, TemplateResult
from fusedface.recipes.evaluation.verification import VerificationResult


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = create("mobilefacenet", embedding_dim=16, input_size=(32, 32), width=0.25)
    archive = {
        "format": FORMAT, "version": VERSION, "backbone": model.config, "model": model.state_dict(),
        "preprocessing": model.preprocessing.as_dict(), "step": 3,
    }  # fmt: skip
    torch.save(archive, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def pairs(tmp_path):
    write_people(tmp_path / "people")
    (tmp_path / "people" / "some.txt").write_text(
        "ann/ann_0001.png ann/ann_0002.png 1 0\nann/ann_0001.png cyd/cyd_0001.png 0 0\n"
        "bob/bob_0001.png bob/bob_0002.png 1 1\nbob/bob_0001.png cyd/cyd_0001.png 0 1\n"
    )
    return tmp_path / "people" / "some.txt"


def evaluate(checkpoint, pairs, out=None, **options):
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    return evaluate_checkpoint(
        checkpoint, None, [pairs], [], out, "cpu", console, **options
    ), stream.getvalue()


def test_what_is_printed_and_written(checkpoint, pairs, tmp_path):
    """Into a folder whose parents are made; and once more into the same one."""
    out = tmp_path / "new" / "results"
    for _ in range(2):
        results, shown = evaluate(checkpoint, pairs, out)
    figures = results["some"].figures
    assert (figures.scored, figures.num_genuine) == ("listed", 2)
    assert "some: 5 of 5 images are not 32x32 (112x112: 5); they are scaled" in shown
    assert "model.pt: mobilefacenet, 32x32, mirror features: sum" in shown
    assert "listed: 2 + 2" in shown
    assert "templates" not in shown
    written = json.loads((out / "results.json").read_text())
    assert written.keys() == {"checkpoint", "backbone", "mirror_features", "verification"}
    assert written["checkpoint"] == "model.pt"
    assert written["backbone"]["name"] == "mobilefacenet"
    assert written["verification"] == json.loads(json.dumps({"some": results["some"].as_dict()}))
    plots = {
        f"{name}.{kind}" for name in ("roc", "det", "calibration", "cmc") for kind in ("png", "svg")
    }
    others = {"results.json", "thresholds.json", "scores-some.csv", "mistakes-some.png"}
    assert {path.name for path in out.iterdir()} == plots | others


def test_all_pairs_on_request(checkpoint, pairs, tmp_path):
    before = sorted(tmp_path.iterdir())
    results, shown = evaluate(checkpoint, pairs, all_pairs=True)
    figures = results["some"].figures
    assert (figures.scored, figures.num_impostor) == ("all", 8)
    assert "all: 2 + 8" in shown
    assert sorted(tmp_path.iterdir()) == before  # without a folder nothing is written


def test_a_file_in_place_of_the_folder_is_refused_before_the_work(checkpoint, pairs, tmp_path):
    """All figures were lost when the folder could not be made at the end."""
    (tmp_path / "results").write_text("kept")
    for out in (tmp_path / "results", tmp_path / "results" / "deeper"):
        with pytest.raises(ValueError, match="results is a file; give a folder for the results"):
            evaluate(checkpoint, pairs, out)
    assert (tmp_path / "results").read_text() == "kept"


def test_thresholds_of_another_network_are_refused(checkpoint, pairs, tmp_path):
    """Only the name of the file says which set they are of, so they would be printed as this network's."""
    evaluate(checkpoint, pairs, tmp_path / "results")
    archive = torch.load(checkpoint, weights_only=True)
    torch.save(archive | {"step": 4}, tmp_path / "newer.pt")
    known = tmp_path / "results" / "thresholds.json"
    with pytest.raises(ValueError, match=r"measured with model\.pt .* not with newer\.pt"):
        evaluate(tmp_path / "newer.pt", pairs, fixed=known)
    assert "some (known)" in evaluate(checkpoint, pairs, fixed=known)[1]


def cells(table):
    return [[cell.plain for cell in row] for row in table.rows]


def figures(**changes):
    given = {
        "accuracy": 0.9, "accuracy_std": 0.01, "tar_at_far": {"0.1": 0.75}, "auc": 0.8, "eer": 0.2,
        "rank1": None, "num_pairs": 60, "num_folds": 10, "scored": "listed",
        "num_genuine": 30, "num_impostor": 1500,
    }  # fmt: skip
    return VerificationResult(**(given | changes))


def measured(searched=None, **changes):
    """What the table of figures reads of a set."""
    return SimpleNamespace(figures=figures(**changes), identification=searched)


def test_a_figure_that_a_set_lacks_is_a_dash():
    searched = Identification((0.5, 0.75, 1.0), {"0.1": 0.375}, num_gallery=3, num_probes=1200)
    two = measured(searched, tar_at_far={"0.01": 0.5}, rank1=0.25)
    table = results_table({"one": measured(), "two": two})
    assert [heading.plain for heading in table.headings] == ["figure", "one", "two"]
    assert cells(table) == [
        ["accuracy, 10 folds", "90.00 ± 1.00", "90.00 ± 1.00"],
        ["TAR at FAR 0.1", "75.00", "-"],
        ["area under ROC", "80.00", "80.00"],
        ["equal error rate", "20.00", "20.00"],
        ["pairs of TAR and ROC", "listed: 30 + 1,500", "listed: 30 + 1,500"],
        ["TAR at FAR 0.01", "-", "50.00"],
        ["rank-1", "-", "25.00"],
        ["1:N, among the first 1", "-", "50.00"],
        ["1:N, DIR at FAR 0.1", "-", "37.50"],
        ["1:N, people and probes", "-", "3 and 1,200"],
    ]


def test_a_row_of_templates():
    rates = {f"{far:g}": None for far in TEMPLATE_RATES[:2]}
    rates |= {f"{far:g}": 0.125 * i for i, far in enumerate(TEMPLATE_RATES[2:])}
    table = templates_table({"IJBX": TemplateResult(rates, 1200, 8000, 1_560_000)})
    assert [heading.plain for heading in table.headings] == [
        "set", "templates", "pairs", *(f"TAR at FAR {far:g}" for far in TEMPLATE_RATES),
    ]  # fmt: skip
    assert cells(table) == [
        ["IJBX", "1,200", "8,000 + 1,560,000", "-", "-", "0.00", "12.50", "25.00", "37.50"]
    ]
