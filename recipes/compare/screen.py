"""The live screen of a comparison, one row per run; else a line per start or end of a run."""

from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fusedface.recipes.compare.results import FAILED, PlannedRun, RunResult, read_result
from fusedface.recipes.host.terminal import plain, say
from fusedface.recipes.run_directory.summary import VERDICT_COLOURS

BARS = " ▁▂▃▄▅▆▇█"
SPARK_WIDTH = 16
BAR_WIDTH = 14
COLUMNS = (
    ("loss", None, 0), ("seed", 4, 0), ("", BAR_WIDTH, 110), ("step", None, 60), ("loss", None, 80),
    ("", SPARK_WIDTH, 120), ("cos", None, 80), ("accuracy", None, 0), ("", None, 0),
)  # fmt: skip
"""Heading, width, and the least terminal width that shows the column; no figure is cut."""
FIGURES = frozenset({"seed", "step", "cos", "accuracy"})
REFRESH_PER_SECOND = 2


class Screen:
    """Shows the progress of every run; call `update` with the runs in progress.

    Args:
        runs: all runs of the comparison, in the order of their rows.
        console: where to show it.
    """

    def __init__(self, runs: Sequence[PlannedRun], console: Console) -> None:
        self.runs, self.console = runs, console
        self._results = {run: read_result(run) for run in runs}
        self._running: set[PlannedRun] = set()
        self._live = _started(console) if console.is_terminal else None

    def update(self, running: set[PlannedRun]) -> None:
        """Read the files of the runs in progress, and show them."""
        begun, ended = running - self._running, self._running - running
        for run in running | ended:
            self._results[run] = read_result(run)
        self._running = running
        if self._live is not None:
            self._live.update(self._table())
            return
        for run in begun:
            self._say(run, "begins")
        for run in ended:
            self._say(run, _told(self._results[run]))

    def close(self) -> None:
        """Remove the live screen."""
        if self._live is not None:
            self._live.stop()

    def _say(self, run: PlannedRun, text: str) -> None:
        done = sum(result.done for result in self._results.values())
        say(self.console, f"[{done}/{len(self.runs)}] {run.label}, seed {run.seed}: {text}")

    def _table(self) -> Group:
        shown = [i for i, (_, _, least) in enumerate(COLUMNS) if self.console.width >= least]
        table = Table(box=None, padding=(0, 1), pad_edge=False, expand=True)
        for i in shown:
            heading, width, _ = COLUMNS[i]
            is_name = i == 0
            table.add_column(
                heading,
                width=width,
                ratio=1 if is_name else None,
                overflow="fold",
                no_wrap=not is_name,
                justify="right" if heading in FIGURES else "left",
            )
        for run in self.runs:
            cells = _cells(run, self._results[run], run in self._running)
            table.add_row(*(cells[i] for i in shown))
        done = sum(result.done for result in self._results.values())
        return Group(plain(f"{done} of {len(self.runs)} runs done", "bold"), table)


def _started(console: Console) -> Live:
    """A table that is drawn again in its place."""
    live = Live(console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True)
    live.start()
    return live


def _cells(run: PlannedRun, result: RunResult, is_running: bool) -> list:
    """The cells of one run's row."""
    last = result.train[-1] if result.train else None
    total = _num_steps(result)
    state = Text("waiting", style="dim")
    if is_running:
        state = Text("starting" if last is None else "running", style="cyan")
    elif result.summary:
        state = Text(result.verdict, style=VERDICT_COLOURS[result.verdict])
    elif last is not None:
        state = Text("stopped", style="yellow")
    accuracies = result.accuracies
    return [
        plain(run.label),
        str(run.seed),
        ProgressBar(total=total or 1, completed=last["step"] if last else 0),
        f"{last['step']:,}" if last else "",
        f"{last['loss']:.2f}" if last else "",
        sparkline([line["loss"] for line in result.train], SPARK_WIDTH),
        f"{last['target_cosine']:.2f}" if last else "",
        f"{accuracies[-1][1]:.2%}" if accuracies else "",
        state,
    ]


def _num_steps(result: RunResult) -> int | None:
    """The number of steps of a run; None before it is known."""
    schedule = result.run.recipe.schedule
    if schedule.steps is not None or not result.train:
        return schedule.steps
    last = result.train[-1]
    return round(last["step"] * schedule.epochs / last["epoch"])


def _told(result: RunResult) -> str:
    if result.verdict == FAILED:
        return FAILED
    assert result.summary is not None
    accuracy = f", accuracy {result.accuracies[-1][1]:.2%}" if result.accuracies else ""
    return f"{result.verdict}{accuracy} ({result.summary.message})"


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as bars, scaled from the smallest to the largest; each bar is the mean of equally many."""
    if not values:
        return ""
    per_bar = -(-len(values) // width)
    means = [
        sum(values[i : i + per_bar]) / len(values[i : i + per_bar])
        for i in range(0, len(values), per_bar)
    ]
    low, high = min(means), max(means)
    scale: Callable[[float], int] = lambda v: 1 + round((v - low) / (high - low) * 7)  # noqa: E731
    return "".join(BARS[scale(mean)] if high > low else BARS[1] for mean in means)
