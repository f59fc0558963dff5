"""Functions run by several Gloo processes at once, which are started once for many functions."""

import gc
import json
import multiprocessing
import os
import traceback
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

TIMEOUT = timedelta(seconds=60)  # for what another process has not sent, in a test that fails

# One process is the parent of all of these, if the same process runs their tests.
TOGETHER = ["sharded_cases", "distributed_cases", "distributed_parts"]


def fails(kind, words, call):
    """A call raises an error of this kind, whose message has these words."""
    with pytest.raises(kind) as error:
        call()
    assert all(word in str(error.value) for word in words), (words, str(error.value))


def run_cases(module, num_ranks, folder, cases="CASES"):
    """Call each of these of `module` in `num_ranks` processes; what went wrong in each, by name and rank.

    A process that fails ends there, and with it the others, since nothing is left to answer them.
    """
    # Their parent has imported everything, and runs nothing: they start at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(TOGETHER if module in TOGETHER else [module])
    store = f"file://{folder}/store"
    arguments = [
        (f"{module}:{cases}", rank, num_ranks, store, f"{folder}/{rank}.json")
        for rank in range(num_ranks)
    ]
    processes = [context.Process(target=_run, args=each) for each in arguments]
    with pytest.MonkeyPatch.context() as patch:
        # Their parent has not our sys.path (Python 3.11), and says nothing of what it cannot import.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        for process in processes:
            process.start()
    for process in processes:
        process.join()
    reports = []
    for *_, path in arguments:
        with open(path) as file:
            reports.append(json.load(file))
    return reports


def _run(name, rank, num_ranks, store, path):
    torch.set_num_threads(1)
    # Its parent may have been started by another module of tests, with another environment.
    os.environ["FUSEDFACE_TEST_FOLDER"] = os.path.dirname(path)
    module, _, cases = name.partition(":")
    cases = getattr(import_module(module), cases)
    gc.freeze()  # what is imported stays: it is not looked through again and again
    report = dict.fromkeys(cases, "not reached")
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=num_ranks, timeout=TIMEOUT
    )
    try:
        for name, case in cases.items():
            case(rank, num_ranks)
            report[name] = ""
    except BaseException:
        report[name] = traceback.format_exc()
    with open(path, "w") as file:
        json.dump(report, file)
    os._exit(0)  # without waiting for the others


def outcome(reports, name):
    """What to say of a case that failed anywhere; empty if it did not."""
    failed = [f"rank {rank}: {report[name]}" for rank, report in enumerate(reports) if report[name]]
    return "\n".join(failed)
