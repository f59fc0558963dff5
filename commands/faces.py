"""`embed`, `verify` and `identify`: use one network on aligned faces."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fusedface.commands.options import DeviceOption
from fusedface.recipes.host.terminal import Table, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedface.recipes.evaluation.decision import Candidate, Rule

ModelOption = Annotated[
    Path, typer.Option("--model", help="A checkpoint, of a run or a public one, or an ONNX file.")
]
ThresholdsOption = Annotated[
    Path | None,
    typer.Option(
        "--thresholds",
        help="The thresholds.json of `evaluate --out`; without it MODEL.thresholds.json (of `export`).",
    ),
]
SetNameOption = Annotated[
    str | None, typer.Option("--set", help="Of which set, where the file holds several.")
]
FarOption = Annotated[
    float, typer.Option("--far", help="False accept rate of one comparison, one that was measured.")
]
FACE = "An aligned face crop, such as 112x112."


def embed(
    images: Annotated[list[Path], typer.Argument(help="Aligned face crops, or folders of them.")],
    model: ModelOption,
    out: Annotated[Path, typer.Option("-o", "--out", help="The .npz file to write.")] = Path(
        "embeddings.npz"
    ),
    device: DeviceOption = None,
) -> None:
    """Write the embeddings of aligned faces: (N, D) float32, not normalised, with their paths (N,)."""
    from fusedface.recipes.evaluation.decision import embed_files
    from fusedface.recipes.evaluation.embedding_file import check_name, write_embeddings
    from fusedface.recipes.evaluation.recognisers import open_recogniser
    from fusedface.recipes.evaluation.threshold_file import model_file

    check_name(out)
    recogniser = open_recogniser(model, device)
    names, embeddings = embed_files(recogniser, images)
    write_embeddings(out, names, embeddings, model_file(model))
    say(Console(), recogniser.describe())
    count, dim = embeddings.shape
    say(Console(), f"wrote {out}: embeddings of {count:,} images, {dim} numbers each")


def verify(
    one: Annotated[Path, typer.Argument(metavar="A", help=FACE)],
    other: Annotated[Path, typer.Argument(metavar="B", help=FACE)],
    model: ModelOption,
    thresholds: ThresholdsOption = None,
    set_name: SetNameOption = None,
    far: FarOption = 1e-3,
    device: DeviceOption = None,
) -> None:
    """Compare two faces: cosine, probability of one person, and the decision at a false accept rate."""
    from fusedface.recipes.evaluation.decision import cosine_of, find_rule
    from fusedface.recipes.evaluation.recognisers import open_recogniser

    rule = find_rule(model, thresholds, set_name, far)
    cosine = cosine_of(open_recogniser(model, device), one, other)
    console = Console()
    say(console, f"cosine {cosine:.4f}")
    if rule is None:
        say(console, _no_thresholds(model))
        return
    probability = rule.probability(cosine)
    say(console, f"probability {probability:.4f}, where half of all comparisons are of one person")
    say(console, f"{'one person' if rule.accepts(cosine) else 'two people'} by {rule.describe()}")


def identify(
    probe: Annotated[Path, typer.Argument(help=FACE)],
    gallery: Annotated[
        Path, typer.Argument(help="A folder with a folder, or an image, for each person.")
    ],
    model: ModelOption,
    thresholds: ThresholdsOption = None,
    set_name: SetNameOption = None,
    far: FarOption = 1e-3,
    top: Annotated[int, typer.Option(min=1, help="People to show.")] = 5,
    device: DeviceOption = None,
) -> None:
    """Search a gallery for the person on a face, and decide whether the gallery has that person."""
    from fusedface.recipes.evaluation.decision import find_rule, search
    from fusedface.recipes.evaluation.recognisers import open_recogniser

    rule = find_rule(model, thresholds, set_name, far)
    found = search(open_recogniser(model, device), probe, gallery)
    console = Console()
    console.print(_people_table(found[:top], rule))
    if rule is None:
        say(console, _no_thresholds(model))
        return
    best = found[0]
    say(console, best.person if rule.accepts(best.cosine) else f"nobody of {gallery}")
    say(console, f"by {rule.describe()}")
    say(console, _of_strangers(far, len(found)))


def _of_strangers(far: float, num_people: int) -> str:
    """Sentence on how many strangers are taken for a person of a gallery."""
    alarm = 1 - (1 - far) ** num_people
    return (
        f"the rate is of one comparison: of strangers compared with {num_people:,} people, about "
        f"{100 * alarm:.1f} % are taken for somebody"
    )


def _people_table(people: "Sequence[Candidate]", rule: "Rule | None") -> Table:
    """A row for each person of a gallery; with a rule also the probability and the decision."""
    judged = ["probability", "decision"] if rule else []
    table = Table("", ["person"], ["images", "cosine", *judged])
    for person in people:
        cells = [f"{person.num_images:,}", f"{person.cosine:.4f}"]
        if rule:
            accepted = "accepted" if rule.accepts(person.cosine) else "-"
            cells += [f"{rule.probability(person.cosine):.4f}", accepted]
        table.add_row(person.person, *cells)
    return table


def _no_thresholds(model: Path) -> str:
    """Message that says how to get thresholds for a decision."""
    from fusedface.recipes.host.program import command

    run = command("evaluate", model, "--root", "FACES", "--out", "RESULTS")
    return (
        "this model has no thresholds yet, so neither a probability nor a decision is shown: measure them "
        f"on faces like yours with {run} and give --thresholds RESULTS/thresholds.json"
    )
