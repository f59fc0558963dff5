"""What a run says of sinking while it trains: figures of the common component, and the warning."""

import math

import pytest
import torch

from fusedface.kernels import ArcFace, CurricularFace, NormFace
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.common import common_component
from fusedface.recipes.training.watch import SinkingWatch

WATCH = SinkingWatch(num_classes=1000, target_gradient="exact", warmup_steps=20, log_every=10)


def look(step, cosine, margin=None, watch=WATCH, momentum=0.9):
    figures = {"target_cosine": cosine, "centre_length": 2.5}
    return watch.look(step, margin or ArcFace(m=0.5), figures, 0.1, momentum)


def test_the_common_component_of_a_known_arrangement():
    """Embeddings about e; class centres about -e with the cosine 0.6 to it, of lengths 2 and 4."""
    generator = torch.Generator().manual_seed(0)
    e = torch.zeros(40)
    e[0] = 1.0
    around = torch.randn(6000, 40, generator=generator)
    around[:, 0] = 0.0
    around = torch.nn.functional.normalize(around, dim=1)
    embeddings = 7.0 * (0.5 * e + math.sqrt(0.75) * around)
    centres = -0.6 * e + 0.8 * around[:500]
    centres[::2] *= 2.0
    centres[1::2] *= 4.0
    found = common_component(embeddings, centres, Processes())
    assert found["embedding_common"] == pytest.approx(0.5, abs=0.01)
    assert found["centre_common"] == pytest.approx(0.6, abs=0.02)
    assert found["centre_length"] == pytest.approx(3.0)


def test_a_batch_of_strangers_has_nothing_in_common():
    """The mean of 64 random directions is 1/8 long; that is taken off."""
    generator = torch.Generator().manual_seed(1)
    found = [
        common_component(
            torch.randn(64, 128, generator=generator), torch.randn(9, 128), Processes()
        )
        for _ in range(20)
    ]
    assert sum(f["embedding_common"] ** 2 for f in found) / 20 < 0.3 / 64


def test_it_warns_below_half_of_f0_at_step_100_and_again_at_200():
    above = 0.5 * (1 - math.cos(0.5))
    assert look(100, above + 1e-4).warning is None
    warning = look(100, 0.029).warning
    # 1 / beta is 98 steps for class centres of length 2.5: docs/losses.md.
    for part in ("0.029 is below F0/2 = 0.061: likely to sink", "1/beta = 98", "s=16, 0.2 s=32"):
        assert part in warning
    assert "sinking" in look(200, -0.02).warning
    for step in (90, 110, 190, 210, 300):
        assert look(step, -0.5).warning is None
    # The first line at or after it, where lines are rare.
    rare = SinkingWatch(num_classes=9, target_gradient="exact", warmup_steps=0, log_every=50)
    assert [step for step in range(50, 400, 50) if look(step, -0.5, watch=rare).warning] == [
        100,
        200,
    ]


@pytest.mark.parametrize("margin", [NormFace(), CurricularFace()])
def test_margins_that_pull_no_cosine_down_are_not_warned_of(margin):
    assert look(100, -0.5, margin).warning is None


def test_the_cures_are_not_warned_of():
    straight = SinkingWatch(1000, "straight_through", 20, 10)
    assert look(100, -0.05, watch=straight).warning is None


def test_without_sgd_there_is_no_pace():
    found = look(100, 0.0, momentum=None)
    assert found.pace_steps is None
    assert "1/beta" not in found.warning
    assert look(50, 0.0).pace_steps == pytest.approx(97.7, abs=0.1)
    assert look(50, 0.0).slope_gap == pytest.approx(1 - math.cos(0.5))
