"""`recipe study`: what the finished runs in the file of a study say, whatever code made them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console

from fusedface.recipes.compare.contrast_tables import COLUMNS, figures
from fusedface.recipes.compare.contrasts import (
    Contrast,
    LeftOut,
    among_plain,
    best_left_out,
    family,
    gains_of_cures,
    spread_left_out,
)
from fusedface.recipes.compare.paired import Spread, t_interval
from fusedface.recipes.compare.study import Entry, read_study
from fusedface.recipes.compare.tables import common_prefix
from fusedface.recipes.compare.texts import cure_of, loss_of
from fusedface.recipes.host.terminal import Table, say

Runs = dict[str, dict[int, Entry]]
"""The entries of a study, by label and by seed."""


def print_study(path: Path, reference: str, against: Sequence[str], console: Console) -> None:
    """Print the tables of a study.

    Args:
        path: the file.
        reference: label of the variant that is compared with others.
        against: losses whose variants are compared with it, as one family; all others if empty.
        console: where to.

    Raises:
        ValueError: the file is damaged, or has no such loss.
    """
    runs = _runs(path)
    others = _others(path, [*runs], reference, against)
    accuracies = {
        label: {seed: _accuracy(entry) for seed, entry in of_label.items()}
        for label, of_label in runs.items()
    }
    prefix = common_prefix([*runs])
    say(console, _made(runs))
    console.print(_variants(prefix, runs))
    short = " ".join(_named(prefix, reference)).removesuffix(" plain")
    for title, contrasts in (
        ("Each cure less the plain loss", gains_of_cures(accuracies)),
        (f"{short} less the other plain losses", among_plain(accuracies, reference)),
        (f"{short} less these variants", family(accuracies, [(reference, o) for o in others])),
    ):
        if contrasts:
            console.print(_tests(prefix, title, contrasts))
    ours = [label for label in runs if loss_of(label) == loss_of(reference)]
    if found := best_left_out(accuracies, ours, others):
        console.print(_left_out(prefix, found))
        say(console, _left_out_mean(found))


def _runs(path: Path) -> Runs:
    runs: Runs = {}
    for entry in read_study(path):
        if entry["evaluations"] and entry["train"]:  # else it ended before it was verified
            runs.setdefault(entry["label"], {})[entry["seed"]] = entry
            missing = {"target_cosine", "accuracy"} - entry["train"].keys()
            if missing or "verdict" not in entry["summary"]:
                what = ", ".join(sorted(missing)) or "verdict"
                raise ValueError(f"{path}: {entry['label']}, seed {entry['seed']} lacks {what}")
    return runs


def _others(path: Path, labels: list[str], reference: str, against: Sequence[str]) -> list[str]:
    """Labels of the variants to compare with; raise ValueError for a loss that the file does not have."""
    losses = list(dict.fromkeys(map(loss_of, labels)))
    for name, known in ((reference, labels), *((name, losses) for name in against)):
        if name not in known:
            raise ValueError(f"{path} has no run of {name}; it has {', '.join(losses) or 'none'}")
    chosen = against or [name for name in losses if name != loss_of(reference)]
    return [label for label in labels if loss_of(label) in chosen and label != reference]


def _accuracy(entry: Entry) -> float:
    """After the last step, mean over the sets."""
    sets = entry["evaluations"][-1]["verification"].values()
    return fmean(figures["accuracy"] for figures in sets)


def _made(runs: Runs) -> str:
    """How many runs there are, and on which processors."""
    entries = [entry for of_label in runs.values() for entry in of_label.values()]
    machines = Counter(str(entry["machine"].get("processor")) for entry in entries)
    made = ", ".join(f"{count} on {name}" for name, count in machines.most_common())
    minutes = sum(entry["summary"].get("cpu_seconds") or 0.0 for entry in entries) / 60
    return f"{len(entries)} runs of {len(runs)} variants: {made}; {minutes:.0f} minutes of a core"


def _variants(prefix: str, runs: Runs) -> Table:
    headings = ["seeds", "final, %", "target cosine", "training, %"]
    table = Table(f"Variants: {prefix}...", ["loss", "cure", "verdicts"], headings)
    finals = {label: _spread(of_label) for label, of_label in runs.items()}
    for label in sorted(runs, key=lambda label: -finals[label].mean):
        entries, final = runs[label].values(), finals[label]
        verdicts = Counter(entry["summary"]["verdict"] for entry in entries)
        spread = "" if final.std is None else f" ± {100 * final.std:.2f}"
        cosine, recognised = (
            fmean(entry["train"][name][-1] for entry in entries)
            for name in ("target_cosine", "accuracy")
        )
        table.add_row(
            *_named(prefix, label),
            ", ".join(f"{count} {name}" for name, count in verdicts.most_common()),
            str(final.count),
            f"{100 * final.mean:.2f}{spread}",
            f"{cosine:.2f}",
            f"{100 * recognised:.0f}",
        )
    return table


def _spread(runs: Mapping[int, Entry]) -> Spread:
    spread = Spread.of([_accuracy(entry) for entry in runs.values()])
    assert spread is not None  # there is at least one run
    return spread


def _tests(prefix: str, title: str, contrasts: Sequence[Contrast]) -> Table:
    """One row for each contrast, named by the label that tells the rows apart."""
    has_one_first = len({one.first for one in contrasts}) == 1
    labels = [one.second if has_one_first else one.first for one in contrasts]
    repeats = len(set(map(loss_of, labels))) < len(labels)
    table = Table(title, ["loss", "cure"], COLUMNS, num_keys=1 + repeats)
    for label, one in zip(labels, contrasts, strict=True):
        table.add_row(*_named(prefix, label), *figures(one))
    return table


def _named(prefix: str, label: str) -> tuple[str, str]:
    """The loss without the beginning that all have, and its cure."""
    return loss_of(label).removeprefix(prefix), cure_of(label) or "plain"


def _left_out(prefix: str, found: Sequence[LeftOut]) -> Table:
    title = "Best variants, each chosen on the other seeds"
    table = Table(title, ["first", "less"], ["seed", "points"])
    for one in found:
        both = [label.removeprefix(prefix) for label in (one.first, one.second)]
        table.add_row(*both, str(one.seed), f"{100 * one.difference:+.2f}")
    return table


def _left_out_mean(found: Sequence[LeftOut]) -> str:
    spread = spread_left_out(found)
    assert spread is not None  # there are at least three
    ends = t_interval(spread)
    sure = "" if ends is None else f", 95 % interval {100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}"
    return f"Mean {100 * spread.mean:+.2f}{sure}. It is approximate, as the choices share runs."
