"""The figures of a comparison: means and spreads over seeds, and paired tests between losses."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from fusedface.recipes.compare.contrasts import family
from fusedface.recipes.compare.paired import PairedTest, Spread
from fusedface.recipes.compare.texts import cure_of

if TYPE_CHECKING:
    from fusedface.recipes.compare.results import RunResult
    from fusedface.recipes.configuration.recipe import Recipe

SHARES = (0.90, 0.95, 0.99)
"""Shares of the comparison's best accuracy; a comparison reports the steps of each loss to reach them."""


@dataclass(frozen=True)
class LossResult:
    """One loss over all its seeds. Accuracies are means over the sets, as fractions."""

    label: str
    margin: str
    """Parameters of the margin, such as "m=0.5 s=64"."""
    verdicts: dict[str, int]
    """Number of runs with each verdict."""
    best: Spread | None
    """Best accuracy during training. It is optimistic, because it is chosen on the test pairs."""
    final: Spread | None
    """Accuracy after the last step, of the finished runs."""
    cosine: Spread | None
    """Mean target cosine at the end of training, of the finished runs; a negative value is a bad sign."""
    tar: Spread | None
    """True accept rate at `far`, after the last step."""
    far: str | None
    """The lowest false accept rate that the sets of all runs support."""
    steps_to: tuple[Spread | None, ...]
    """Steps to each of SHARES of the comparison's best accuracy, of the runs that reach it."""
    ms_per_step: float | None
    peak_memory_mib: float | None
    against: PairedTest | None
    """The test of the reference loss against this one; None for the reference itself, and without a seed
    that both have finished."""
    is_reference: bool = False


def summarise(results: "Sequence[RunResult]") -> list[LossResult]:
    """The figures of each loss, best final accuracy first; losses without one come last, never left out.

    Args:
        results: all runs. The reference of the tests is the first loss with CurricularFace that has no
            cure; without one, the first loss.
    """
    groups = by_label(results)
    reference = reference_label(results)
    bests = [max((a for _, a in r.accuracies), default=0.0) for r in results]
    top = max(bests, default=0.0)
    far = _common_far(results)
    tests = _paired_tests(groups, reference)
    losses = [
        replace(
            _loss_result(label, runs, top, far, tests.get(label)),
            is_reference=label == reference,
        )
        for label, runs in groups.items()
    ]
    return sorted(losses, key=lambda loss: -(loss.final.mean if loss.final else -1.0))


def by_label(results: "Iterable[RunResult]") -> "dict[str, list[RunResult]]":
    """The runs of each loss, by its label, both in their order."""
    found: dict[str, list[RunResult]] = {}
    for result in results:
        found.setdefault(result.run.label, []).append(result)
    return found


def reference_label(results: "Sequence[RunResult]") -> str:
    """The label of the loss that the tests compare with the others."""
    ours = [r.run.label for r in results if r.run.recipe.head.margin.name == "curricularface"]
    labels = ours or [r.run.label for r in results]
    return next((label for label in labels if not cure_of(label)), labels[0])


def steps_to(accuracies: Sequence[tuple[int, float]], wanted: float) -> float | None:
    """The step at which accuracy first reaches `wanted`, linear between evaluations; None if never."""
    previous: tuple[int, float] | None = None
    for step, accuracy in accuracies:
        if accuracy >= wanted:
            if previous is None or accuracy == previous[1]:
                return float(step)
            share = (wanted - previous[1]) / (accuracy - previous[1])
            return previous[0] + share * (step - previous[0])
        previous = (step, accuracy)
    return None


def final_accuracy(result: "RunResult") -> float | None:
    """Accuracy after the last step; None for an unfinished run."""
    if result.summary is None or not result.summary.finished or not result.accuracies:
        return None
    return result.accuracies[-1][1]


def _loss_result(
    label: str, runs: "list[RunResult]", top: float, far: str | None, test: PairedTest | None
) -> LossResult:
    verdicts: dict[str, int] = {}
    for run in runs:
        verdicts[run.verdict] = verdicts.get(run.verdict, 0) + 1
    reached = [[steps_to(run.accuracies, share * top) for run in runs] for share in SHARES]
    times = [run.ms_per_step for run in runs if run.ms_per_step is not None]
    peaks = [s.peak_memory_mib for r in runs if (s := r.summary) and s.peak_memory_mib is not None]
    finals = [a for run in runs if (a := final_accuracy(run)) is not None]
    cosines = [r.train[-1]["target_cosine"] for r in runs if final_accuracy(r) is not None]
    tars = [t for run in runs if far and (t := _tar(run, far)) is not None]
    return LossResult(
        label=label,
        margin=_parameters(runs[0].run.recipe),
        verdicts=verdicts,
        best=Spread.of([max(a for _, a in run.accuracies) for run in runs if run.accuracies]),
        final=Spread.of(finals),
        cosine=Spread.of(cosines),
        tar=Spread.of(tars),
        far=far,
        steps_to=tuple(Spread.of([s for s in steps if s is not None]) for steps in reached),
        ms_per_step=fmean(times) if times else None,
        peak_memory_mib=max(peaks, default=None),
        against=test,
    )


def _parameters(recipe: "Recipe") -> str:
    head = recipe.head
    values = asdict(head.margin) | ({"gamma": head.focal_gamma} if head.focal_gamma else {})
    values |= asdict(head.weighting) if head.weighting else {}
    own = " ".join(
        f"{name}={value:g}"
        for name, value in values.items()
        if isinstance(value, float | int) and value is not False
    )
    if head.target_gradient != "exact":
        own += f", {head.target_gradient}"
    stages = recipe.schedule.loss
    return f"until {', '.join(stages)}, then {own}" if stages else own


def _tar(run: "RunResult", far: str) -> float | None:
    """Mean over the sets of the true accept rate after the last step."""
    if final_accuracy(run) is None:
        return None
    sets = run.evaluations[-1]["verification"].values()
    return fmean(figures["tar_at_far"][far] for figures in sets)


def _common_far(results: "Sequence[RunResult]") -> str | None:
    sets = [
        figures["tar_at_far"]
        for run in results
        if final_accuracy(run) is not None
        for figures in run.evaluations[-1]["verification"].values()
    ]
    if not sets:
        return None
    rates = [far for far in sets[0] if all(rates.get(far) is not None for rates in sets)]
    return min(rates, key=float, default=None)


def _paired_tests(by_label: "dict[str, list[RunResult]]", reference: str) -> dict[str, PairedTest]:
    """Tests of the reference against every other loss, on the seeds that both have finished."""
    others = [(reference, label) for label in by_label if label != reference]
    tests = family(accuracies_of(by_label), others)
    return {contrast.second: contrast.test for contrast in tests}


def accuracies_of(by_label: "dict[str, list[RunResult]]") -> dict[str, dict[int, float]]:
    """The final accuracies of the finished runs, by label and by seed."""
    return {
        label: {
            run.run.seed: accuracy for run in runs if (accuracy := final_accuracy(run)) is not None
        }
        for label, runs in by_label.items()
    }
