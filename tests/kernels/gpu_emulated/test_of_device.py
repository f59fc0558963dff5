"""Tests that wait for a CUDA device, executed on the emulated GPU: they must be right when one comes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from emulated_head import emulated
from recorded_work import GraphOfWork

from fusedface.kernels import checks


def module_of(name):
    """A module of `gpu/`, whose device is the emulated GPU."""
    path = Path(__file__).parents[1] / "gpu" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"emulated_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DEVICE = "cpu"
    return module


@pytest.fixture(scope="module")
def tests():
    return module_of("test_device")


@pytest.fixture(scope="module")
def of_learning():
    return module_of("test_device_learning")


@pytest.fixture(autouse=True)
def gpu():
    with emulated(90):
        yield


def test_float32(tests):
    tests.test_float32_matches_the_oracle("magface", (5, 131, 7))


def test_options(tests):
    tests.test_options("arcface", {"focal_gamma": 2.0})


@pytest.mark.parametrize(
    ("name", "precision"), [("curricularface", "bfloat16"), ("mvarc", "float16")]
)
def test_budget(tests, name, precision):
    tests.test_rounded_operands_stay_within_the_budget(name, (64, 256, 128), precision)


def test_rows_without_direction(tests):
    tests.test_rows_without_direction_duplicates_and_poles("curricularface", 128, "bfloat16")


def test_statistics(tests):
    tests.test_statistics("curricularface", 128)


def test_dtypes(tests):
    tests.test_input_dtypes_and_autocast(torch.bfloat16)


def test_the_kernels_step(of_learning, monkeypatch):
    monkeypatch.setattr(of_learning, "STEPS", 2)
    of_learning.test_the_kernels_step_is_torchs(128, "bfloat16", 1e-2)


def test_learning_in_the_backward(of_learning, monkeypatch):
    monkeypatch.setattr(of_learning, "STEPS", 1)
    of_learning.test_class_centres_that_learn_in_the_backward_are_those_of_the_optimiser(128)


def test_exponentials_kept(of_learning, monkeypatch):
    monkeypatch.setattr(of_learning, "STEPS", 1)
    of_learning.test_exponentials_kept_change_only_rounding(128)


def test_a_skipped_step(of_learning, monkeypatch):
    monkeypatch.setattr(of_learning, "STEPS", 2)
    of_learning.test_a_step_without_finite_gradients_is_skipped()


@pytest.mark.parametrize("keeps_unit_rows", [False, True])
@pytest.mark.parametrize("on_device", [False, True])
def test_steps_from_a_graph(of_learning, on_device, keeps_unit_rows, monkeypatch):
    def recorded(call, state, prepare):
        for _ in range(of_learning.STEPS):
            call()
        prepare()
        return GraphOfWork(state).record(call)[0]

    monkeypatch.setattr(of_learning, "in_cuda_graph", recorded)
    monkeypatch.setattr(checks, "can_be_read", lambda device: False)
    of_learning.test_steps_from_a_graph_have_the_same_bits(keeps_unit_rows, on_device)
