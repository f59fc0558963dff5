"""metrics.jsonl: what a resumed run keeps of it."""

import json

import pytest

from fusedface.recipes.run_directory.metrics import MetricsLog, read_metrics


def scalars(folder):
    """What TensorBoard reads: {name: [(step, value), ...]}."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in accumulator.Scalars(name)] for name in names}


def test_the_board_shows_the_figures_of_the_lines(tmp_path):
    """Nested figures by their path, whole numbers too, and no texts."""
    with MetricsLog(tmp_path, -1) as log:
        assert log.notice is None
        log.write("train", 1, {"loss": 8.5, "epoch": 2, "note": "x"})
        log.write("train", 2, {"loss": 8.25})
        log.write("evaluation", 2, {"verification": {"lfw": {"accuracy": 0.75, "rank1": None}}})
    assert scalars(tmp_path) == {
        "train/loss": [(1, 8.5), (2, 8.25)],
        "train/epoch": [(1, 2.0)],
        "evaluation/verification/lfw/accuracy": [(2, 0.75)],
    }


def test_the_board_forgets_what_came_after_the_step(tmp_path):
    for step, loss in ((0, 1.0), (2, 5.0)):
        with MetricsLog(tmp_path, step) as log:
            for later in (1, 2, 3):
                log.write("train", step + later, {"loss": loss + later})
    assert scalars(tmp_path) == {"train/loss": [(1, 2.0), (2, 3.0), (3, 6.0), (4, 7.0), (5, 8.0)]}


LINE = {"kind": "train", "step": 3, "loss": 1.5}


@pytest.mark.parametrize(
    "line",
    [
        [], 3, {}, LINE | {"step": 3.0}, LINE | {"step": True}, LINE | {"step": None},
        LINE | {"kind": "evaluation"}, LINE | {"kind": "other"}, LINE | {"loss": "1.5"},
        {"kind": "train", "step": 3}, LINE | {"loss": None},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_line_that_is_none_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{json.dumps(line)}\n{json.dumps(LINE)}\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: .* is not a line of metrics") as error:
        read_metrics(path)
    assert json.dumps(line) in str(error.value)
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2"):
        MetricsLog(tmp_path, 0)
    assert path.read_text().count("\n") == 3  # left as it is


@pytest.mark.parametrize("text", [b"\xff\xfe", b"{" * 100_000, b'{"kind": "tra'])
def test_text_that_is_no_json_is_named_shortly(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(text + b"\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl:1: ") as error:
        read_metrics(path)
    assert len(str(error.value)) < 300 + len(str(path))
    path.write_bytes(json.dumps(LINE).encode() + b"\n" + text)  # as a killed process leaves it
    assert read_metrics(path) == [LINE]
    path.write_bytes(json.dumps(LINE).encode())  # whole, but for its end
    assert read_metrics(path) == [LINE]


def write_steps(folder, steps):
    lines = [{"kind": "train", "step": step, "loss": 9.0 - step} for step in steps]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def test_lines_up_to_the_step_stay_and_later_ones_go(tmp_path):
    """The line of the step itself was written before its checkpoint, and no one writes it again."""
    write_steps(tmp_path, (2, 4, 6))
    log = MetricsLog(tmp_path, 4)
    log.write("train", 5, {"loss": 1.0})
    log.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2, 4, 5]


def test_without_a_checkpoint_every_line_goes(tmp_path):
    """The evaluation of step 0 too, which is repeated."""
    write_steps(tmp_path, (0, 2))
    MetricsLog(tmp_path, -1).close()
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == ""
