"""Class centres that learn in the backward, split over processes: the emulated GPU is in only one."""

from gloo import outcome, run_cases
from triton_cases import CASES


def test_two_processes(tmp_path):
    reports = run_cases("triton_cases", 2, tmp_path)
    problems = [outcome(reports, case) for case in CASES]
    assert not any(problems), "\n".join(problems)
