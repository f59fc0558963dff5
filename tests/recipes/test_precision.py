"""Where a run computes, and in which precision."""

import pytest
import torch

from fusedface.recipes.run import pick_device
from fusedface.recipes.training import precision
from fusedface.recipes.training.precision import pick_precision

CPU = torch.device("cpu")


def test_devices():
    assert pick_device("cpu") == CPU
    with pytest.raises(ValueError, match="device 'gpu'"):
        pick_device("gpu")


def test_float16_is_refused_on_the_cpu():
    assert pick_precision("float32", CPU).dtype == torch.float32
    assert pick_precision("auto", CPU).dtype in (torch.float32, torch.bfloat16)
    with pytest.raises(ValueError, match=r"train\.precision must not be float16 on cpu"):
        pick_precision("float16", CPU)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bfloat16_is_taken_where_the_processor_has_it(monkeypatch, has_bfloat16):
    """A processor without it emulates it; then "auto" is float32, and who asks for bfloat16 is told."""
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: has_bfloat16)
    expected = torch.bfloat16 if has_bfloat16 else torch.float32
    assert pick_precision("auto", CPU).dtype == expected
    assert pick_precision("bfloat16", CPU).is_emulated is not has_bfloat16
    assert not pick_precision("float32", CPU).is_emulated
