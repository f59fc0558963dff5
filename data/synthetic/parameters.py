"""The traits of a person and the conditions of a photo: named numbers drawn from hashes.

Lengths are in half image sides: the face spans [-1, 1], right and down positive. The template is the
usual one of aligned faces: eyes at (+-0.32, -0.08), mouth at 0.65.
"""

import torch
from torch import Tensor

from fusedface.data.synthetic.hashing import uniforms
from fusedface.data.synthetic.named import Named

FAMILY, PERSON, PHOTO, LABELS = range(4)  # streams of the hash

# Low and high end of each trait of a person; uniform in between.
TRAITS: dict[str, tuple[float, float]] = {
    "face_width": (0.60, 0.78),
    "face_length": (0.94, 1.14),
    "jaw": (0.15, 0.95),  # 0: pointed, 1: square
    "cheek": (-0.12, 0.16),
    "skin": (0.0, 1.0),
    "skin_warmth": (-1.0, 1.0),
    "blush": (0.0, 0.35),
    "eye_distance": (0.27, 0.365),
    "eye_height": (-0.12, -0.04),
    "eye_width": (0.095, 0.150),
    "eye_opening": (0.040, 0.085),
    "eye_tilt": (-0.22, 0.22),
    "iris_hue": (0.0, 1.0),
    "iris_light": (0.0, 1.0),
    "iris_size": (0.038, 0.058),
    "lid": (0.3, 1.0),
    "bags": (0.0, 0.5),
    "brow_gap": (0.10, 0.19),
    "brow_width": (0.12, 0.21),
    "brow_thickness": (0.012, 0.048),
    "brow_tilt": (-0.28, 0.22),
    "brow_arch": (0.0, 0.07),
    "nose_length": (0.20, 0.37),
    "nose_width": (0.065, 0.150),
    "nose_bridge": (0.02, 0.06),
    "nose_depth": (0.25, 0.9),
    "mouth_height": (0.58, 0.72),
    "mouth_width": (0.20, 0.34),
    "upper_lip": (0.018, 0.055),
    "lower_lip": (0.025, 0.075),
    "lip_red": (0.15, 0.9),
    "hair": (0.0, 1.0),
    "hair_red": (0.0, 1.0),
    "grey": (-2.5, 1.0),
    "hairline": (-0.92, -0.58),
    "hairline_bend": (-0.1, 0.55),
    "parting": (-0.45, 0.45),
    "hair_volume": (0.02, 0.24),
    "hair_length": (-0.6, 1.6),
    "bald": (-4.0, 1.0),
    "beard": (-1.6, 1.0),
    "moustache": (-1.6, 1.0),
    "freckles": (-1.5, 1.0),
    "mole_x": (-0.45, 0.45),
    "mole_y": (-0.3, 0.9),
    "mole": (-0.8, 1.0),
    "ears": (0.05, 0.14),
    "chin": (0.0, 0.5),
    "asymmetry": (-0.025, 0.025),
    "temple": (0.0, 2.4),
    "curl": (-0.05, 0.05),
}

# Of a photo: drawn in [-1, 1] and scaled by the difficulty, except where noted.
CONDITIONS = (
    "yaw", "pitch", "roll", "scale", "shift_x", "shift_y",
    "smile", "mouth_open", "brow_raise", "blink", "gaze",
    "light_x", "light_y", "light_strength", "gain", "warm", "tint", "contrast",
    "background_r", "background_g", "background_b", "background_x", "background_y", "background_blob",
    "glasses", "glasses_dark", "hat", "mask", "bar", "bar_angle", "bar_offset", "cloth",
    "blur", "motion", "low_resolution", "noise",
    "tile_0", "tile_1", "tile_2",
)  # fmt: skip


def traits(seed: int, identity: Tensor, family_size: int, family_spread: float) -> Tensor:
    """Traits of people (n,) int64 as (n, len(TRAITS)) float64.

    A family shares its traits; a member differs by up to half of `family_spread` of each range.
    """
    count = len(TRAITS)
    family = uniforms(seed, FAMILY, (identity // family_size,), count)
    own = uniforms(seed, PERSON, (identity,), count)
    # A family's centre is away from the ends, so that no member is clipped there.
    unit = family * (1.0 - family_spread) + own * family_spread
    low, high = torch.tensor(list(TRAITS.values()), dtype=torch.float64, device=unit.device).T
    return low + unit * (high - low)


def named_traits(values: Tensor) -> Named:
    """`traits` by name."""
    return _named(values, tuple(TRAITS))


def conditions(seed: int, identity: Tensor, image: Tensor) -> Named:
    """Conditions of photos (n,), each in [-1, 1)."""
    values = 2.0 * uniforms(seed, PHOTO, (identity, image), len(CONDITIONS)) - 1.0
    return _named(values, CONDITIONS)


def _named(values: Tensor, names: tuple[str, ...]) -> Named:
    numbers = {name: k for k, name in enumerate(names)}
    return Named(values.float()[:, :, None, None, None], numbers)
