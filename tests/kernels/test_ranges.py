"""Ranges of the numbers of margins, weightings and options: their ends, and the next float past them."""

import math

import pytest

from fusedface.kernels import (
    LDAM,
    MARGINS,
    MVAM,
    AdaFace,
    ArcFace,
    Combined,
    CosFace,
    CurricularFace,
    HeadOptions,
    MagFace,
    MVArc,
    SelfPaced,
    SelfPacedLinear,
    SphereFace,
)

ANGLE = f"[0, {math.pi!r})"
RANGES = [
    *((margin, "s", "[1e-6, 1e6]") for margin in MARGINS.values()),
    (CosFace, "m", "[0, 2)"),
    (ArcFace, "m", ANGLE),
    (SphereFace, "m", "[1, inf)"),
    (Combined, "m1", "[1, inf)"),
    (Combined, "m2", ANGLE),
    (Combined, "m3", "[0, 2)"),
    (MVAM, "m", "[0, 2)"),
    (MVAM, "t", "[1, 10)"),
    (MVArc, "m", ANGLE),
    (MVArc, "t", "[1, 10)"),
    (CurricularFace, "m", ANGLE),
    (CurricularFace, "t_momentum", "(0, 1]"),
    (AdaFace, "m", ANGLE),
    (AdaFace, "h", "(0, inf)"),
    (AdaFace, "momentum", "(0, 1]"),
    (MagFace, "l_a", "(0, 110)"),  # up to u_a
    (MagFace, "u_a", "(10, inf)"),  # from l_a on
    (MagFace, "l_m", "[0, 0.8]"),
    (MagFace, "u_m", f"[0.45, {math.pi!r})"),
    (MagFace, "lambda_g", "[0, inf)"),
    (LDAM, "max_m", "[0, 2)"),
    *((w, "first_share", "(0, 1)") for w in (SelfPaced, SelfPacedLinear)),
    *((w, "growth", "[1, inf)") for w in (SelfPaced, SelfPacedLinear)),
    (HeadOptions, "focal_gamma", "[0, 100]"),
]


def ends(interval):
    """The least and the largest float inside an interval, and the floats next to them outside."""
    low, high = (float(text) for text in interval[1:-1].split(","))
    below, above = math.nextafter(low, -math.inf), math.nextafter(high, math.inf)
    after, before = math.nextafter(low, math.inf), math.nextafter(high, -math.inf)
    least, too_small = (low, below) if interval[0] == "[" else (after, low)
    largest, too_large = (high, above) if interval[-1] == "]" else (before, high)
    return (least, largest), (too_small, too_large)


@pytest.mark.parametrize(
    ("kind", "name", "interval"),
    RANGES,
    ids=[f"{kind.__name__}.{name}" for kind, name, _ in RANGES],
)
def test_a_number_is_taken_up_to_the_ends_of_its_range(kind, name, interval):
    inside, outside = ends(interval)
    for value in inside:
        assert getattr(kind(**{name: value}), name) == value
    for value in outside:
        with pytest.raises(ValueError, match="must be"):
            kind(**{name: value})
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=rf"^{name} must be .*, got {value}$"):
            kind(**{name: value})


@pytest.mark.parametrize("kind", [*MARGINS.values(), SelfPaced, SelfPacedLinear, HeadOptions])
def test_every_record_checks_the_kinds_of_its_fields(kind):
    name = {SelfPaced: "growth", SelfPacedLinear: "growth", HeadOptions: "focal_gamma"}.get(
        kind, "s"
    )
    with pytest.raises(TypeError, match=f"{name} must be a number, got '1'"):
        kind(**{name: "1"})


def test_ignore_index_is_a_number_of_64_bits():
    for value in (-(2**63), 2**63 - 1):
        assert HeadOptions(ignore_index=value).ignore_index == value
    for value in (-(2**63) - 1, 2**63):
        with pytest.raises(ValueError, match="ignore_index must be an integer of 64 bits"):
            HeadOptions(ignore_index=value)
