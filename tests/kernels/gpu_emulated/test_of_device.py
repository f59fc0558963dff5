"""Tests that wait for a CUDA device, executed on the emulated GPU: they must be right when one comes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from emulated_head import emulated


@pytest.fixture(scope="module")
def tests():
    """The module `gpu/test_device.py`, whose device is the emulated GPU."""
    path = Path(__file__).parents[1] / "gpu" / "test_device.py"
    spec = importlib.util.spec_from_file_location("tests_of_a_device", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DEVICE = "cpu"
    return module


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
