"""Result files: comparing them, the tables of the README, plots."""

import copy

import pytest
import torch

from fusedface.bench import markdown, plots, results, tables
from fusedface.bench.case import Case
from fusedface.bench.compare import compare
from fusedface.bench.rows import Row

MACHINE = {
    "date": "2026-01-02", "device": "Some CPU", "cores": 2, "threads": 2, "python": "3.11", "cuda": None,
    "system": "Linux", "packages": {"torch": "2.13.0"}, "revision": None,
}  # fmt: skip
CEILINGS = {"flops": {"float32": 1e11, "bfloat16": 2e11}, "bytes": 1e10, "exps": 1e10}


def row(head, ms, num_classes=85742, **more):
    case = Case(256, num_classes, 128, more.pop("phase", "start"))
    passes = {"both": (ms - 1.0, ms, ms + 1.0)} if ms else {}
    return Row(case, head, passes, **more)


def document(*rows, benchmark="kernels"):
    return {
        "benchmark": benchmark,
        "machine": MACHINE,
        "ceilings": CEILINGS,
        "rows": [r.as_dict() for r in rows],
    }


def test_the_readme_shows_what_the_results_say():
    """Run `cli.py bench readme` when this fails."""
    root, found = markdown.RESULTS.parents[1], markdown.documents()
    assert found, "no results are committed"
    assert markdown.split(root / "README.md")[1] == markdown.readme(found)
    assert markdown.split(root / "docs" / "benchmarks.md")[1] == markdown.full(found)


def test_a_table_holds_each_head_that_ran_and_says_what_ran_out_of_memory(tmp_path):
    errors = {"loss": 1e-7, "embeddings": 2e-6, "weight": 3e-6}
    found = document(
        row("fused curricularface float32", 200.4, peak_extra_mib=42.4, errors=errors),
        row("fused curricularface float32", 99.9, phase="late", peak_extra_mib=43.4, errors=errors),
        row("eager curricularface", None, note="out of memory"),
        row("liger normface", None, note="needs a CUDA device"),
    )
    text = markdown.readme([(tmp_path / "cpu.json", found)])
    assert "| **fused CurricularFace, float32** | 200 | 99.9 | 43 | 3e-06 |" in text
    assert "| best eager formulation (`torch.where`) | out of memory |  |  |  |" in text
    assert "Liger" not in text
    assert "Some CPU, 2 threads, torch 2.13.0, 2026-01-02" in text
    assert "bench/results/cpu.json" in text


def test_a_machine_is_described_with_its_instructions():
    """Two processors of one name may differ in them, and in every ratio."""
    now = results.machine(torch.device("cpu"))
    assert f" ({torch.backends.cpu.get_cpu_capability()}), " in results.describe(now)
    assert results.describe(MACHINE) == "Some CPU, 2 threads, torch 2.13.0, 2026-01-02"


def test_only_what_is_between_the_markers_is_rewritten(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{markdown.BEGIN}\nold\n{markdown.END}\nafter\n")
    markdown.rewrite(path, "new")
    assert path.read_text() == f"before\n{markdown.BEGIN}\nnew\n{markdown.END}\nafter\n"
    path.write_text("no markers")
    with pytest.raises(ValueError, match="once each"):
        markdown.rewrite(path, "new")


def write(path, content):
    results.write_json(path, content)
    return path


def test_compare_tells_faster_from_slower_and_from_noise(tmp_path):
    old = write(tmp_path / "old.json", document(row("a", 100.0), row("b", 10.0), row("c", 5.0)))
    new = document(
        row("a", 50.0), row("b", 11.0), row("c", None, note="out of memory"), row("d", 2.0)
    )
    unit, changes = compare(old, write(tmp_path / "new.json", new))
    assert unit == "ms"
    by_name = {change.name.split()[-1]: change for change in changes}
    assert by_name["a"].speed == 2.0
    assert by_name["a"].clear
    assert not by_name["b"].clear  # 9 to 11 and 10 to 12 overlap
    assert by_name["c"].speed is by_name["d"].speed is None
    assert by_name["c"].new is by_name["d"].old is None


def test_compare_of_rates(tmp_path):
    def rates(value):
        row = {"source": "list", "augmentation": "flip", "num_images": 8, "note": ""}
        triple = [value - 1, value, value + 1]
        return {
            "benchmark": "data",
            "machine": MACHINE,
            "rows": [row | {"images_per_second": triple}],
        }

    old, new = write(tmp_path / "a", rates(100.0)), write(tmp_path / "b", rates(150.0))
    assert compare(old, new)[1][0].speed == 1.5
    kernels = write(tmp_path / "c", document(row("a", 1.0)))
    with pytest.raises(ValueError, match="bench data"):
        compare(old, kernels)
    for content in ("{", "[]", '{"rows": []}'):
        (tmp_path / "bad").write_text(content)
        with pytest.raises(ValueError, match="bad"):
            compare(old, tmp_path / "bad")
    with pytest.raises(ValueError, match="cannot read"):
        compare(old, tmp_path / "none")


def test_growth_is_plotted_with_what_ran_out_of_memory(tmp_path):
    found = document(
        row("fused curricularface float32", 10.0, 1000, peak_extra_mib=1.0),
        row("fused curricularface float32", 20.0, 2000, peak_extra_mib=2.0),
        row("eager curricularface", 30.0, 1000, peak_extra_mib=9.0),
        row("eager curricularface", None, 2000, note="out of memory"),
        row("liger normface", None, 1000, note="needs a CUDA device"),
    )
    before = copy.deepcopy(found)
    plots.plot_growth(found, "num_classes", tmp_path / "growth.json")
    drawing = (tmp_path / "growth.svg").read_text()
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert "growth" not in drawing
    assert found == before


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.012"), (12.345, "12.3"), (1234.5, "1234")]
)
def test_three_digits_are_enough(value, text):
    assert tables.milliseconds(value) == text
