"""The figures of a comparison as text, one row per loss: for terminal, report and comparison.json."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from fusedface.recipes.compare.paired import PairedTest, Spread
from fusedface.recipes.compare.results import FAILED, RunResult
from fusedface.recipes.compare.statistics import SHARES, LossResult
from fusedface.recipes.host.terminal import Table, plain
from fusedface.recipes.run_directory.summary import VERDICT_COLOURS

if TYPE_CHECKING:
    from fusedface.recipes.configuration.recipe import Recipe


def _backbone(recipe: "Recipe") -> str:
    backbone = recipe.backbone
    height, width = backbone.input_size
    return f"{backbone.name} x{backbone.width:g} at {height}x{width}"


def _data(recipe: "Recipe") -> str:
    data, people = recipe.data, recipe.data.synthetic
    if data.source != "synthetic":
        return data.source
    return (
        f"{people.num_identities:,} generated people, {people.images_per_identity} images each, "
        f"difficulty {people.difficulty:g}, label noise {people.label_noise:g}"
    )


SETTINGS_THAT_MATTER = (
    ("warm-up steps", lambda r: r.schedule.warmup_steps),
    ("learning rate", lambda r: r.optim.lr),
    ("batch", lambda r: r.optim.batch_size),
    ("clip norm", lambda r: r.optim.clip_norm),
    ("precision", lambda r: r.train.precision),
    ("backbone", _backbone),
    ("data", _data),
)
"""Settings that are known to change the result. With each loss are shown: s, m, t, the momentum of t, and a
gradient of the target that is not exact."""


def headings(losses: Sequence[LossResult]) -> list[str]:
    """The columns of the table; the first is the loss."""
    far = next((loss.far for loss in losses if loss.far), None)
    return [
        "loss",
        "margin",
        "verdicts",
        "final, %",
        "best, %",
        "target cosine",
        f"TAR at FAR {float(far):.0e}, %".replace("e-0", "e-") if far else "TAR, %",
        "reference less this",
        "95 % interval",
        "effect, g",
        "p (Holm)",
        *(f"steps to {share:.0%} of best" for share in SHARES),
        "ms a step",
        "peak MiB",
    ]


def cells(loss: LossResult, num_runs: int) -> list[str]:
    """The row of a loss, in the order of `headings`."""
    test = loss.against
    return [
        loss.label,
        loss.margin,
        ", ".join(f"{count} {verdict}" for verdict, count in loss.verdicts.items()),
        _percent(loss.final, num_runs),
        _percent(loss.best, num_runs),
        "-"
        if loss.cosine is None
        else f"{loss.cosine.mean:.2f}" + _of(loss.cosine.count, num_runs),
        _percent(loss.tar, num_runs),
        difference_text(loss, num_runs),
        *_sure(test),
        "-" if test is None or test.p_holm is None else f"{test.p:.3f} ({test.p_holm:.3f})",
        *(_number(steps, num_runs) for steps in loss.steps_to),
        "-" if loss.ms_per_step is None else f"{loss.ms_per_step:.0f}",
        "-" if loss.peak_memory_mib is None else f"{loss.peak_memory_mib:.0f}",
    ]


def groups(names: Sequence[str]) -> dict[str, list[int]]:
    """The columns of each table by its title, because a single table would be too wide.

    Args:
        names: see `headings`.
    """
    tests, speed = names.index("reference less this"), len(names) - len(SHARES) - 2
    return {
        "How well": [0, *range(2, tests)],
        "Differences": [0, *range(tests, speed)],
        "How fast": [0, 1, *range(speed, len(names))],
    }


def rich_tables(losses: Sequence[LossResult]) -> Group:
    """The tables for the terminal."""
    num_runs = max(sum(loss.verdicts.values()) for loss in losses)
    names = headings(losses)
    prefix = common_prefix([loss.label for loss in losses])
    tables = []
    for title, columns in groups(names).items():
        headings_chosen = [names[i] for i in columns]
        table = Table(f"{title}: {prefix}...", headings_chosen[:2], headings_chosen[2:])
        for loss in losses:
            row: list[str | Text] = [*cells(loss, num_runs)]
            row[0], row[2] = loss.label.removeprefix(prefix), _verdict_text(loss.verdicts)
            table.add_row(*(row[i] for i in columns))
        tables += [Text(), table]
    return Group(*tables)


def interval_text(test: PairedTest) -> str:
    """The confidence interval of a difference in points; "-" without one."""
    if test.interval is None:
        return "-"
    low, high = (100 * end for end in test.interval)
    return f"{low:+.2f} to {high:+.2f}"


def difference_text(loss: LossResult, num_runs: int | None = None) -> str:
    """The reference less this loss in points; with `num_runs` with its spread and number of seeds."""
    test = loss.against
    if test is None:
        return "reference" if loss.is_reference else "-"
    if num_runs is None:
        return f"{100 * test.difference.mean:+.2f}"
    return _percent(test.difference, num_runs, signed=True)


def _sure(test: PairedTest | None) -> list[str]:
    """The interval and the effect size of a test."""
    if test is None:
        return ["-", "-"]
    return [interval_text(test), "-" if test.effect is None else f"{test.effect:+.1f}"]


def common_prefix(labels: Sequence[str]) -> str:
    """The common beginning of all labels up to a hyphen, which is the backbone."""
    first = labels[0]
    ends = [i + 1 for i, letter in enumerate(first) if letter == "-"]
    shared = [first[:end] for end in ends if all(x.startswith(first[:end]) for x in labels)]
    return max(shared, key=len, default="")


def as_dict(losses: Sequence[LossResult]) -> list[dict[str, Any]]:
    """For comparison.json."""
    return [asdict(loss) for loss in losses]


def settings_line(recipe: "Recipe") -> str:
    """One line with SETTINGS_THAT_MATTER, which are the same for all runs."""
    return "; ".join(f"{name} {value(recipe)}" for name, value in SETTINGS_THAT_MATTER)


def _verdict_text(verdicts: dict[str, int]) -> Text:
    parts = [
        (f"{count} {verdict}", VERDICT_COLOURS.get(verdict, "red" if verdict == FAILED else ""))
        for verdict, count in verdicts.items()
    ]
    return Text("\n").join(plain(text, style) for text, style in parts)


def _percent(spread: Spread | None, num_runs: int, signed: bool = False) -> str:
    if spread is None:
        return "-"
    sign = "+" if signed else ""
    text = f"{100 * spread.mean:{sign}.2f}"
    if spread.std is not None:
        text += f" ± {100 * spread.std:.2f}"
    return text + _of(spread.count, num_runs)


def _number(spread: Spread | None, num_runs: int) -> str:
    return "-" if spread is None else f"{spread.mean:,.0f}" + _of(spread.count, num_runs)


def _of(count: int, num_runs: int) -> str:
    """The number of runs behind a figure, as text; empty if it is all runs."""
    return "" if count == num_runs else f" ({count} of {num_runs})"


def set_rows(results: Sequence[RunResult]) -> list[list[str]]:
    """One row for each set of each finished run."""
    return [
        [
            name,
            result.run.label,
            str(result.run.seed),
            f"{100 * figures['accuracy']:.2f} ± {100 * figures['accuracy_std']:.2f}",
            f"{100 * figures['auc']:.2f}",
        ]
        for result in results
        if result.summary and result.summary.finished
        for name, figures in result.summary.verification.items()
    ]
