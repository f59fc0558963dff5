"""metrics.jsonl: what a resumed run keeps of it."""

import json

from fusedface.recipes.run_directory.metrics import MetricsLog, read_metrics


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
