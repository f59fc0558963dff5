"""The line of each recipe in `recipe list`; without torch, whose import takes longer than the list."""

LOSSES = {
    "curricular": "MobileFaceNet with CurricularFace, from scratch: the main job",
    "arcface": "ArcFace with m = 0.5 in place of CurricularFace",
    "arcface-m045": "ArcFace with m = 0.45",
    "mvarc-t1.2": "MV-Arc-Softmax with t = 1.2: hard negatives count 1.2 times from the start",
    "mvarc-t1.4": "MV-Arc-Softmax with t = 1.4: hard negatives count 1.4 times from the start",
    "normface": "NormFace: no margin, the baseline of the comparison",
    "cosface": "CosFace with m = 0.35",
    "focal": "Focal loss with gamma = 2 over the normalised softmax",
    "adaface": "AdaFace with m = 0.4: the margin follows the quality of the image",
    "arcface-scale-warmup": "ArcFace with s = 16 and 32 for a tenth of the run each, then 64",
    "arcface-softmax-first": "ArcFace after a quarter of the run without a margin",
    "spl": "ArcFace with self-paced learning: samples with a large loss count later",
}
"""By the part of the recipe's name after "mobilefacenet-"."""

BACKBONES = {
    "mobilefacenet_relu": "MobileFaceNet with ReLU (for phones)",
    "mbf": "mbf (a wider MobileFaceNet)",
    "iresnet18": "IResNet-18",
    "ghostfacenet_v1_s1": "GhostFaceNetV1-1.3-1",
    "ghostfacenet_v1_s2": "GhostFaceNetV1-1.3-2",
    "edgeface_xs": "EdgeFace-XS (gamma 0.6)",
    "edgeface_s": "EdgeFace-S (gamma 0.5)",
}
"""By the name in `fusedface.models.MODELS`: the network on which each loss can be trained, too."""

FINETUNE = {"mobilefacenet-finetune": "From the weights of a checkpoint (--init), on your people"}

SETS = {
    f"mobilefacenet-{name}": f"MobileFaceNet with ArcFace on {text} generated images (for a GPU)"
    for name, text in {"hsface10k": "HSFace10K, 0.5 M", "vface100k": "VFace100K, 4 M"}.items()
}
"""By the recipe's name, as FINETUNE."""


def lines() -> list[tuple[str, str]]:
    """The rows of `recipe list`: a name, and what it trains."""
    return [
        *((f"mobilefacenet-{loss}", text) for loss, text in LOSSES.items()),
        *FINETUNE.items(),
        *((f"{name}-...", f"each of these on {text}") for name, text in BACKBONES.items()),
        *SETS.items(),
    ]
