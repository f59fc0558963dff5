"""The final table and what summary.json holds."""

import io
import json
import re

from rich.console import Console

from fusedface.recipes.run_directory.summary import Summary
from fusedface.recipes.run_directory.verification_table import verification_table


def make_summary(**changes):
    figures = {
        "accuracy": 0.8125,
        "accuracy_std": 0.0231,
        "num_folds": 10,
        "tar_at_far": {"0.1": 0.71, "0.01": None},
        "auc": 0.9001,
        "rank1": 0.65,
    }
    values = {
        "recipe": "r", "seed": 3, "device": "cpu", "verdict": "converged", "verdict_step": None,
        "message": "m", "steps": 4, "num_steps": 4, "peak_memory_mib": 100.0,
        "seconds": 1.5, "images_per_second": 9.0, "final_loss": 2.0, "initial_loss": 3.0,
        "collapse_loss": 2.5, "num_identities": 7, "num_images": 70, "unreadable_images": 0,
        "verification": {"lfw": figures},
        "untrained": {"lfw": figures | {"accuracy": 0.5, "rank1": 0.1}},
    }  # fmt: skip
    return Summary(**values | changes)


def test_the_keys_that_others_read():
    keys = make_summary().as_dict()
    assert set(keys) >= {
        "recipe", "seed", "device", "verdict", "steps", "seconds", "images_per_second",
        "final_loss", "verification", "untrained",
    }  # fmt: skip
    assert Summary(**json.loads(json.dumps(keys))) == make_summary()


def table_text(summary):
    stream = io.StringIO()
    Console(file=stream, width=100).print(verification_table(summary))
    return stream.getvalue()


def test_table_has_before_and_after():
    lines = [re.split(r"\s{2,}", line.strip()) for line in table_text(make_summary()).splitlines()]
    assert ["lfw", "accuracy, 10 folds", "50.00 ± 2.31", "81.25 ± 2.31"] in lines
    assert ["TAR at FAR 0.1", "71.00", "71.00"] in lines
    assert ["TAR at FAR 0.01", "-", "-"] in lines
    assert ["rank-1", "10.00", "65.00"] in lines


def test_table_without_a_trained_network():
    assert "50.00 ± 2.31" in table_text(make_summary(verification={}))
