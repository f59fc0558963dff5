"""Made-up curves of runs whose verdict is known."""

import math

from fusedface.kernels import ArcFace
from fusedface.recipes.run_directory.verdict import judge

ARCFACE = ArcFace(m=0.5, s=64.0)
COLLAPSE = ARCFACE.collapse_loss(1000)
NUM_PAIRS = 2400


def train(losses, every=10, cosine=0.0):
    return [
        {"kind": "train", "step": every * (i + 1), "loss": loss, "target_cosine": cosine}
        for i, loss in enumerate(losses)
    ]


def evaluations(*accuracies, last_step=1000):
    steps = [round(last_step * i / (len(accuracies) - 1)) for i in range(len(accuracies))]
    return [
        {
            "kind": "evaluation",
            "step": step,
            "verification": {"lfw": {"accuracy": accuracy, "num_pairs": NUM_PAIRS}},
        }
        for step, accuracy in zip(steps, accuracies, strict=True)
    ]


def falling(num=100, start=45.0, end=5.0):
    return train([end + (start - end) * math.exp(-6 * i / num) for i in range(num)], cosine=0.5)


def verdict(lines, ended="finished", **options):
    lines = sorted(lines, key=lambda line: line["step"])
    given = {"end_message": "said", "end_step": 7, "margin": ARCFACE, "num_classes": 1000} | options
    return judge(lines, ended=ended, **given)
