"""What a run writes down and shows: its metrics, what the theory says of them, images it cannot read."""

from typing import TYPE_CHECKING, Any

from fusedface.recipes.host.processes import Processes
from fusedface.recipes.run_directory.metrics import MetricsLog, NoLog, Verification
from fusedface.recipes.training.rates import centre_rate
from fusedface.recipes.training.watch import SinkingWatch

if TYPE_CHECKING:
    from fusedface.recipes.training.display import Display, Status
    from fusedface.recipes.training.learner import Learner
    from fusedface.recipes.training.plan import Plan
    from fusedface.recipes.training.progress import Progress


SHOWN_UNREADABLE = 10


class Logbook:
    """Writes the metrics of a run, and shows them.

    Args:
        log: where lines are written.
        progress: of the run; it keeps the newest loss and the unreadable images.
        learner: has the figures of the steps since the last line.
        plan: the plan of the run; a stage of its loss may end with a line.
        display: shows the status.
        status: the figures that the display shows.
        watch: warns of a run that is about to sink.
        processes: the processes that share the run; the first one writes.
    """

    def __init__(
        self,
        log: MetricsLog | NoLog,
        progress: "Progress",
        learner: "Learner",
        plan: "Plan",
        display: "Display",
        status: "Status",
        watch: SinkingWatch,
        processes: Processes,
    ) -> None:
        self._log, self._progress, self._learner, self._plan = log, progress, learner, plan
        self._display, self._status, self._watch = display, status, watch
        self._processes = processes

    def log_steps(self) -> None:
        """Write a line of metrics on the steps since the last one, show it, and act on it."""
        step = self._progress.step
        figures = self._learner.figures()
        self._status.figures, self._status.lr = figures, self._plan.lr(step - 1)
        self._progress.final_loss = figures["loss"]
        self._look(step, figures)
        rates: dict[str, float | str] = {
            "lr": self._status.lr,
            "epoch": step / self._plan.batches.steps_per_epoch,
        }
        if len(self._plan.losses.stages) > 1:
            rates["stage"] = self._status.stage = self._plan.losses(step - 1).text
        pace = {"images_per_second": self._status.images_per_second}
        self._write("train", figures | rates | pace)
        self._display.logged(self._status)
        self._end_stage(step, figures)

    def log_evaluation(self, results: Verification) -> None:
        """Write the figures of an evaluation; the next status shows them."""
        self._write("evaluation", {"verification": results})
        accuracies = {name: figures["accuracy"] for name, figures in results.items()}
        self._status.verification = accuracies

    def report_unreadable(self, problems: tuple[str, ...]) -> None:
        """Show unreadable images, each once, and only the first few."""
        known = self._progress.unreadable
        for problem in problems:
            if problem in known:
                continue
            known.append(problem)
            if len(known) <= SHOWN_UNREADABLE:
                self._display.note(f"left out an unreadable image: {problem}")
            elif len(known) == SHOWN_UNREADABLE + 1:
                self._display.note("more unreadable images follow; summary.json counts them")

    def _write(self, kind: str, figures: dict[str, Any]) -> None:
        """Write a line; if the first process cannot, all raise OSError and none waits for it."""
        # Without evaluations and checkpoints, so that curves compare.
        seconds = {"seconds": round(self._progress.train_seconds, 3)}
        with self._processes.together():
            self._log.write(kind, self._progress.step, figures | seconds)

    def _look(self, step: int, figures: dict[str, float]) -> None:
        """Show the pull on all cosines together, and warn if the run is about to sink."""
        margin = self._plan.losses(step - 1).margin
        rate = centre_rate(self._learner.optimizer)
        look = self._watch.look(step, margin, figures, *rate)
        self._status.slope_gap, self._status.pace_steps = look.slope_gap, look.pace_steps
        if look.warning is not None:
            self._display.note(look.warning)

    def _end_stage(self, step: int, figures: dict[str, float]) -> None:
        """Take the next margin if the condition of the current one holds."""
        losses = self._plan.losses
        ended = losses.look(step, figures.get("target_cosine", -1.0))
        if ended is not None:
            self._display.note(
                f"step {step}: the target cosine {figures['target_cosine']:.3f} is above {ended.above:g}; "
                f"{losses(step).text} follows {ended.text}"
            )
