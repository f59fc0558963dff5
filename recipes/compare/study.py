"""The figures of finished runs in one small file, so that a study can go on elsewhere and on another day.

For each run the file holds label, seed, a digest of the recipe, the inputs that a comparison checks (code,
torch, device, images, pairs), revision and machine, the summary with verdict and CPU seconds, accuracies,
and every fifth line of training metrics. A run that is taken from the file gets a run directory without
checkpoints; reports read it like any other.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusedface.recipes.compare.results import PlannedRun, RunResult, read_result
from fusedface.recipes.compare.texts import shortened
from fusedface.recipes.configuration.settings import to_toml
from fusedface.recipes.run_directory.directory import RECIPE, RunDirectory
from fusedface.recipes.run_directory.files import read_json, write_text
from fusedface.recipes.run_directory.lock import one_at_a_time
from fusedface.recipes.run_directory.metrics import FILE, Verification, is_number
from fusedface.recipes.run_directory.summary import SUMMARY

if TYPE_CHECKING:
    from fusedface.recipes.compare.reuse import Inputs
    from fusedface.recipes.configuration.recipe import Recipe

FORMAT = "fusedface study"
EVERY = 5  # lines of metrics, of which one is kept
DIGITS = 5
KINDS = {
    "label": str, "seed": int, "recipe": str, "inputs": dict, "machine": dict, "summary": dict,
    "evaluations": list, "train": dict,
}  # fmt: skip
MACHINE = ("platform", "processor", "device", "threads", "git_revision")

Entry = dict[str, Any]


Found = list[tuple[PlannedRun, Entry]]


def find(path: Path, runs: Sequence[PlannedRun], inputs: "Inputs") -> Found:
    """The planned runs that are finished in the file, with their entries.

    Args:
        path: the file; it need not exist yet.
        runs: the planned runs; those that have a result already are left out.
        inputs: what these runs rest on, see `inputs_of`.

    Raises:
        ValueError: the file is damaged, or holds runs of other code or data, or a planned run of other
            settings.
    """
    entries = {(entry["label"], entry["seed"]): entry for entry in read_study(path)}
    found = [(run, entries[key]) for run in runs if (key := (run.label, run.seed)) in entries]
    differing = [line for entry in entries.values() for line in _other_inputs(entry, inputs)]
    differing += [
        f"{run.label}, seed {run.seed}: another recipe"
        for run, entry in found
        if entry["recipe"] != digest_of(run.recipe)
    ]
    if differing:
        revision = next(iter(entries.values()))["machine"].get("git_revision")
        raise ValueError(
            f"{path} holds runs that do not belong to this comparison; it has"
            f"{shortened(list(dict.fromkeys(differing)))}\nCheck out its revision ({revision}), or name "
            "another file with --study"
        )
    return [(run, entry) for run, entry in found if not read_result(run).done]


def write_runs(found: Found) -> None:
    """Make the directories of runs from their entries."""
    for run, entry in found:
        _write_run(run, entry)


def keep(path: Path, results: Iterable[RunResult], inputs: "Inputs") -> int:
    """Add finished runs to the file, and return how many it holds then; several processes may do so.

    Args:
        path: the file; made if it does not exist.
        results: runs; unfinished ones, and those that the file has, are left out.
        inputs: what they rest on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(path.parent):
        entries = read_study(path)
        known = {(entry["label"], entry["seed"]) for entry in entries}
        entries += [
            _entry(result, inputs)
            for result in results
            if result.done
            and result.summary is not None
            and (result.run.label, result.run.seed) not in known
        ]
        lines = ",\n".join(json.dumps(entry) for entry in entries)
        write_text(path, f'{{"format": "{FORMAT}", "version": 1, "runs": [\n{lines}\n]}}\n')
    return len(entries)


def keep_as_runs_end(path: Path, inputs: "Inputs") -> Callable[[set[PlannedRun]], None]:
    """A function to call with the runs in progress. It keeps each run that has ended since the last call.

    So a study loses no finished run when its machine stops. If the file cannot be written, the runs go on,
    and the end of the comparison tries again.
    """
    before: set[PlannedRun] = set()

    def told(running: set[PlannedRun]) -> None:
        ended = before - running
        before.clear()
        before.update(running)
        if ended:
            with suppress(OSError):
                keep(path, map(read_result, ended), inputs)

    return told


def digest_of(recipe: "Recipe") -> str:
    """A digest of all settings of a recipe; of its files, only the names count.

    What is in them is in the `Inputs`, or the recipe has its sha256.
    """
    return hashlib.sha256(to_toml(_without_folders(recipe)).encode()).hexdigest()[:16]


def _without_folders(recipe: "Recipe") -> "Recipe":
    verification, init, teacher = recipe.evaluation, recipe.init, recipe.teacher
    pairs = tuple(Path(path).name for path in verification.pairs)
    return replace(
        recipe,
        data=replace(recipe.data, source=Path(recipe.data.source).name),
        evaluation=replace(verification, pairs=pairs, root=_name(verification.root)),
        init=replace(init, checkpoint=_name(init.checkpoint)),
        teacher=replace(teacher, network=_name(teacher.network)),
    )


def _name(path: str | None) -> str | None:
    return None if path is None else Path(path).name


def read_study(path: Path) -> list[Entry]:
    """The runs of a file; none if it does not exist.

    Raises:
        ValueError: it is damaged, or two of its runs have the same label and seed and differ.
    """
    if not path.exists():
        return []
    content: Any = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a file of a study: its format is another")
    entries = content.get("runs")
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        kinds = ", ".join(f"{name} ({kind.__name__})" for name, kind in KINDS.items())
        raise ValueError(f"{path} is damaged: each of its runs must have {kinds}")
    seen: dict[tuple[str, int], Entry] = {}
    for entry in entries:
        label, seed = entry["label"], entry["seed"]
        if seen.setdefault((label, seed), entry) != entry:
            raise ValueError(
                f"{path} holds two different runs of {label}, seed {seed}: remove the line of one"
            )
    return [*seen.values()]


def _is_entry(entry: Any) -> bool:
    """Whether a value has the form of `_entry`; each line of evaluations and metrics has a step."""
    if not isinstance(entry, dict):
        return False
    if not all(isinstance(entry.get(name), kind) for name, kind in KINDS.items()):
        return False
    columns = [*entry["train"].values()]
    return (
        all(isinstance(line, dict) and is_number(line.get("step")) for line in entry["evaluations"])
        and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns)
        and all(map(is_number, entry["train"].get("step", [None] * len(columns))))
    )


def _other_inputs(entry: Entry, inputs: "Inputs") -> list[str]:
    """How the inputs of a run differ; every run of a file must fit, planned or not."""
    return [
        f"{key}: {entry['inputs'].get(key, 'none')} instead of {value}"
        for key, value in inputs.items()
        if entry["inputs"].get(key) != value
    ]


def _entry(result: RunResult, inputs: "Inputs") -> Entry:
    assert result.summary is not None  # it is done
    starts = RunDirectory(result.run.folder).read_starts()
    last = starts[-1] if starts else {}
    thin = result.train[EVERY - 1 :: EVERY]
    if result.train and thin[-1:] != result.train[-1:]:
        thin.append(result.train[-1])
    names = dict.fromkeys(name for line in thin for name in line if name != "kind")
    before = [
        {name: line[name] for name in ("step", "seconds") if name in line}
        | {"verification": _accuracies(line["verification"])}
        for line in result.evaluations[:-1]
    ]
    return {
        "label": result.run.label,
        "seed": result.run.seed,
        "recipe": digest_of(result.run.recipe),
        "inputs": inputs,
        "machine": {name: last.get(name) for name in MACHINE},
        "summary": result.summary.as_dict(),
        "evaluations": before + result.evaluations[-1:],
        "train": {name: [_rounded(line.get(name)) for line in thin] for name in names},
    }


def _write_run(run: PlannedRun, entry: Entry) -> None:
    """Write the files of a run from its entry."""
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.folder / RECIPE, to_toml(run.recipe))
    write_text(run.folder / FILE, "".join(json.dumps(line) + "\n" for line in _metrics(entry)))
    write_text(run.folder / SUMMARY, json.dumps(entry["summary"], indent=2) + "\n")


def _metrics(entry: Entry) -> list[dict[str, Any]]:
    """The lines of metrics of an entry, by step."""
    columns = entry["train"]
    train = [
        {"kind": "train"} | {name: v for name, v in zip(columns, row, strict=True) if v is not None}
        for row in zip(*columns.values(), strict=True)
    ]
    evaluations = [{"kind": "evaluation"} | line for line in entry["evaluations"]]
    return sorted([*train, *evaluations], key=lambda line: line["step"])


def _accuracies(verification: Verification) -> Verification:
    return {name: {"accuracy": figures["accuracy"]} for name, figures in verification.items()}


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
