"""A file of a study: damaged ones are refused in one sentence, and several processes may add to one."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from fusedface.recipes.compare import study

ENTRY = {
    "label": "arcface",
    "seed": 5,
    "recipe": "0" * 16,
    "inputs": {"code": "of a day"},
    "machine": {},
    "summary": {"verdict": "learned"},
    "evaluations": [{"step": 2, "verification": {}}],
    "train": {"step": [1, 2], "loss": [3.0, 2.0]},
}
DAMAGE = {
    "no table": [],
    "a label that is a list": ENTRY | {"label": ["arcface"]},
    "inputs that are a list": ENTRY | {"inputs": ["code"]},
    "no machine": {name: value for name, value in ENTRY.items() if name != "machine"},
    "columns of two lengths": ENTRY | {"train": {"step": [1, 2], "loss": [3.0]}},
    "a column that is a number": ENTRY | {"train": {"step": 1}},
    "lines without a step": ENTRY | {"train": {"loss": [3.0]}},
    "a step that is a text": ENTRY | {"train": {"step": ["one"]}},
    "an evaluation without a step": ENTRY | {"evaluations": [{"verification": {}}]},
}


def written(path, entries):
    path.write_text(json.dumps({"format": study.FORMAT, "version": 1, "runs": entries}))
    return path


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(tmp_path, damage):
    path = written(tmp_path / "runs.json", [ENTRY, DAMAGE[damage]])
    with pytest.raises(ValueError, match=r"runs\.json is damaged: each of its runs must have"):
        study.find(path, [], {})
    path = written(path, [ENTRY, ENTRY | {"seed": 6, "train": {}, "evaluations": []}])
    assert study.find(path, [], {}) == []


def test_two_runs_of_one_label_and_seed_are_refused(tmp_path):
    """As after a merge of two people's parts; the same line twice is one run."""
    path = written(tmp_path / "runs.json", [ENTRY, ENTRY])
    assert len(study.read_study(path)) == 1
    path = written(path, [ENTRY, ENTRY | {"inputs": {"code": "of another day"}}])
    with pytest.raises(ValueError, match="two different runs of arcface, seed 5"):
        study.find(path, [], {})


def test_a_run_of_other_code_is_refused_also_where_it_is_not_planned(tmp_path):
    path = written(tmp_path / "runs.json", [ENTRY])
    assert study.find(path, [], {"code": "of a day"}) == []
    with pytest.raises(ValueError, match="code: of a day instead of of today"):
        study.find(path, [], {"code": "of today"})


def test_a_half_written_file_is_named(tmp_path):
    path = written(tmp_path / "runs.json", [ENTRY])
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"runs\.json is damaged, it is not JSON"):
        study.find(path, [], {})


def test_several_processes_add_to_one_file(tmp_path, monkeypatch):
    """None loses what another has added meanwhile; the locks of threads exclude each other too."""
    pytest.importorskip("fcntl")
    path, write = tmp_path / "new" / "runs.json", study.write_text

    def slowly(*args):
        time.sleep(0.05)  # so that the others have read the file by then, if they may
        write(*args)

    monkeypatch.setattr(study, "write_text", slowly)
    monkeypatch.setattr(study, "_entry", lambda result, _: ENTRY | {"seed": result.run.seed})
    results = [
        SimpleNamespace(done=True, summary={}, run=SimpleNamespace(label="arcface", seed=seed))
        for seed in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        counts = [*pool.map(lambda result: study.keep(path, [result], {}), results)]
    assert sorted(counts) == [1, 2, 3, 4]
    assert {entry["seed"] for entry in json.loads(path.read_text())["runs"]} == {0, 1, 2, 3}


def test_a_run_is_kept_when_it_ends_not_when_the_study_does(tmp_path, monkeypatch):
    """A study lost its finished runs if its process was killed: the file was written at the end only."""
    path = tmp_path / "runs.json"
    first, second = ("arcface", 0), ("arcface", 1)
    monkeypatch.setattr(
        study,
        "read_result",
        lambda run: SimpleNamespace(
            done=True, summary={}, run=SimpleNamespace(label=run[0], seed=run[1])
        ),
    )
    monkeypatch.setattr(study, "_entry", lambda result, _: ENTRY | {"seed": result.run.seed})
    told = study.keep_as_runs_end(path, {})
    told({first})
    told({first})
    assert not path.exists()
    told({second})
    assert [entry["seed"] for entry in json.loads(path.read_text())["runs"]] == [0]
    told(set())
    assert [entry["seed"] for entry in json.loads(path.read_text())["runs"]] == [0, 1]


def test_runs_go_on_if_the_file_cannot_be_written(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "keep", fails)
    told = study.keep_as_runs_end(tmp_path / "runs.json", {})
    told({"arcface"})
    told(set())
