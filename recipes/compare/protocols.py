"""What a comparison runs when nothing else is said: which losses, and on what."""

from fusedface.recipes.fields import nearest

PAPER_SET = (
    "mobilefacenet-curricular",
    "mobilefacenet-arcface",
    "mobilefacenet-arcface-m045",
    "mobilefacenet-mvarc-t1.2",
    "mobilefacenet-mvarc-t1.4",
    "mobilefacenet-normface",
)
"""The losses of CurricularFace's Fig. 5 and of its text on MobileFaceNet, with softmax on unit vectors
as the baseline."""

PROTOCOLS: dict[str, tuple[str, ...]] = {
    "small": (
        "backbone.input_size=[48, 48]",
        "backbone.width=0.5",
        "data.synthetic.num_identities=500",
        "data.synthetic.images_per_identity=20",
        "optim.batch_size=128",
        "schedule.epochs=12",
        "evaluation.every=1",
        "evaluation.num_identities=100",
        "evaluation.num_pairs=6000",
        "train.precision=float32",
        "train.checkpoint_every=1000",
        "train.keep_checkpoints=1",
    ),
    "casia": (
        "data.synthetic.num_identities=10572",
        "data.synthetic.images_per_identity=40",
        "optim.batch_size=512",
        "schedule.epochs=4",
        "schedule.warmup_steps=100",
        "evaluation.every=0.25",
        "evaluation.num_identities=200",
        "evaluation.num_pairs=6000",
        "train.checkpoint_every=1000",
        "train.keep_checkpoints=1",
    ),
    "recipe": (),
}
"""Settings on top of each recipe, by name: "small" is for two CPU cores, "casia" for a GPU (the number
of people of CASIA-WebFace, generated), "recipe" changes nothing. docs/convergence.md has the reasons."""


def get_protocol(name: str) -> tuple[str, ...]:
    """The settings of a protocol.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise ValueError(
            f"--protocol must be one of {known}, got {name!r}{nearest(name, PROTOCOLS)}"
        )
    return PROTOCOLS[name]
