"""Which alternative is the fastest one to each of our heads."""

from fusedface.bench import markdown
from fusedface.bench.case import Case
from fusedface.bench.fastest import Fastest, fastest
from fusedface.bench.rows import Row

START, LATE = (Case(256, 1000, 128, phase) for phase in ("start", "late"))
OURS = "fused curricularface float32", "fused curricularface bfloat16"


def row(head, in_float32, in_bfloat16, case=START):
    """A head that takes so many times as long as ours in either precision."""
    both = dict(zip(OURS, (in_float32, in_bfloat16), strict=True))
    return Row(case, head, ms={"both": (1.0, 1.0, 1.0)}, ratios={"both": both})


def ours(case=START):
    return row(OURS[0], 1.0, 0.5, case), row(OURS[1], 2.0, 1.0, case)


def test_only_the_same_loss_and_precision_counts():
    rows = [
        *ours(),
        row("eager curricularface", 3.0, 6.0),
        row("compiled eager curricularface", 2.5, 5.0),
        row("compiled eager curricularface bfloat16", 0.9, 1.8),
        row("fused curricularface bfloat16, CUDA graph", 0.1, 0.2),
        row("fused curricularface tf32", 0.1, 0.2),
        row("eager arcface", 0.1, 0.2),
    ]
    assert fastest(rows) == [
        Fastest(START, "curricularface", "float32", "compiled eager", 2.5),
        Fastest(START, "curricularface", "bfloat16", "compiled eager", 1.8),
    ]


def test_each_case_has_its_own_and_a_head_that_failed_has_none():
    failed = Row(LATE, "official curricularface", note="out of memory")
    rows = [*ours(), *ours(LATE), failed, row("eager curricularface", 3.0, 6.0, LATE)]
    assert fastest(rows) == [Fastest(LATE, "curricularface", "float32", "eager", 3.0)]


def test_the_tables_name_it():
    rows = [*ours(), row("eager curricularface", 0.954, 2.0)]
    machine = {
        "device": "Some CPU",
        "threads": 2,
        "packages": {"torch": "2.13.0"},
        "date": "2026-01-02",
    }
    found = {
        "benchmark": "kernels", "machine": machine, "ceilings": None,
        "rows": [one.as_dict() for one in rows],
    }  # fmt: skip
    documents = [(markdown.RESULTS / "cpu.json", found)]
    tables = markdown.full(documents)
    assert "| 256, 1,000, 128 | CurricularFace, float32 | 0.95 |  | eager |" in tables
    assert "| CurricularFace, bfloat16 |  |  | none was timed |" in tables
    assert "| 1 at 1 sizes | 0.95 to 0.95 | [all figures](bench/results/cpu.json) |" in (
        markdown.readme(documents)
    )


def test_the_readme_has_a_line_for_each_machine_and_the_table_of_the_fullest():
    def result(device, *rows):
        machine = {
            "device": device, "threads": 2, "packages": {"torch": "2.13.0"}, "date": "2026-01-02",
        }  # fmt: skip
        return {
            "benchmark": "kernels", "machine": machine, "ceilings": None,
            "rows": [one.as_dict() for one in rows],
        }  # fmt: skip

    few, many = ours(), [*ours(), row("eager curricularface", 1.2, 2.0)]
    documents = [
        (markdown.RESULTS / "a.json", result("One CPU", *few)),
        (markdown.RESULTS / "b.json", result("Other CPU", *many)),
    ]
    text = markdown.readme(documents)
    assert text.count("all figures") == 2
    assert (
        "| One CPU, 2 threads, torch 2.13.0, 2026-01-02 | 0 at 0 sizes | none was timed |" in text
    )
    assert "D = 128 on Other CPU, 2 threads" in text
    assert "D = 128 on One CPU" not in text
