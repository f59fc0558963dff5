"""Predictions of the theory for each setting of the map, written to a file before training.

There are two predictions. The first needs only the untrained network; it is a fit to simulated runs:

    19.2 + 1.8 ln w0 - 2.5 ln(C n / B) - 16.9 F0 - 7.2 ln(s / 64)  > 0:  learns

w0 is the mean cosine of two images of one person minus that of two people; n is the number of images per
person. The second is a threshold, F0 / 2, of the target cosine 80 steps after the warm-up (docs/losses.md).
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import normalize

from fusedface.data import SyntheticFaces
from fusedface.kernels.sinking import CRITERION_STEPS, learns_above
from fusedface.models.registry import BackboneOptions
from fusedface.recipes.configuration.data import Synthetic
from fusedface.recipes.run_directory.files import read_json, write_text
from fusedface.recipes.training.seeding import seed_everything

if TYPE_CHECKING:
    from fusedface.recipes.compare.map_settings import Setting

FORMAT = "fusedface predictions of sinking"
PROBED_PEOPLE, PROBED_IMAGES = 96, 4
SMALLEST_CONTRAST = 1e-3  # of w0, because the fit takes its logarithm


@dataclass(frozen=True)
class Prediction:
    """The predictions for one setting."""

    label: str
    slope_gap: float
    """F0 of the margin in the first steps."""
    contrast: float
    """w0 of the untrained network."""
    score: float
    """Value of the fit above; a positive value predicts learning."""
    learns_untrained: bool
    learns_above: float | None
    """F0 / 2; None for a loss that does not pull cosines down, and so learns."""
    asked_at: int
    """The step at which the target cosine is compared with `learns_above`."""


def predict(setting: "Setting") -> Prediction:
    """The predictions for a setting; draws its network and renders a few of its faces."""
    recipe = setting.recipe()
    margin, gradient = recipe.head.margin, recipe.head.target_gradient
    gap = margin.slope_gap(target_gradient=gradient)
    people = recipe.data.synthetic
    contrast = untrained_contrast(
        recipe.backbone,
        recipe.train.seed,
        replace(
            people,
            num_identities=min(PROBED_PEOPLE, people.num_identities),
            images_per_identity=min(PROBED_IMAGES, people.images_per_identity),
        ),
    )
    steps_an_epoch = people.num_identities * people.images_per_identity / recipe.optim.batch_size
    score = (
        19.2
        + 1.8 * math.log(max(contrast, SMALLEST_CONTRAST))
        - 2.5 * math.log(steps_an_epoch)
        - 16.9 * max(gap, 0.0)
        - 7.2 * math.log(margin.s / 64.0)
    )
    above = learns_above(margin, gradient)
    return Prediction(
        label=setting.label,
        slope_gap=round(gap, 4),
        contrast=round(contrast, 4),
        score=round(score, 2),
        learns_untrained=score > 0.0 or above is None,
        learns_above=None if above is None else round(above, 4),
        asked_at=recipe.schedule.warmup_steps + CRITERION_STEPS,
    )


@cache
@torch.no_grad()
def untrained_contrast(backbone: BackboneOptions, seed: int, people: Synthetic) -> float:
    """w0: mean cosine of two images of one person minus that of two people, for a drawn network."""
    seed_everything(seed)
    model = backbone.build()
    faces = SyntheticFaces(
        people.num_identities,
        people.images_per_identity,
        image_size=model.preprocessing.input_size,
        seed=people.seed,
        difficulty=people.difficulty,
    )
    images = torch.stack([torch.as_tensor(faces.image(i)) for i in range(len(faces))])
    model.train()  # so that it uses batch statistics, as in the first step
    unit = normalize(model(model.preprocessing.images_to_tensor(images)), dim=1)
    labels = torch.as_tensor(faces.labels)
    cosines, same = unit @ unit.T, labels[:, None] == labels
    own = same & ~torch.eye(len(labels), dtype=torch.bool)
    return (cosines[own].mean() - cosines[~same].mean()).item()


def write_predictions(predictions: list[Prediction], path: Path) -> None:
    """Write the file, which is committed before any training."""
    content = {"format": FORMAT, "version": 1, "predictions": [asdict(p) for p in predictions]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_predictions(path: Path) -> dict[str, Prediction]:
    """The predictions in a file, by label.

    Raises:
        ValueError: the file is missing or is something else.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: predictions are written before the runs, with --predict"
        )
    content: Any = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a file of predictions: its format is another")
    try:
        found = [Prediction(**values) for values in content["predictions"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of predictions: {error}") from None
    return {prediction.label: prediction for prediction in found}
