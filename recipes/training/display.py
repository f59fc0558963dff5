"""The display of a running training: a live panel on a terminal, plain lines elsewhere."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fusedface.kernels import STATE_NAMES
from fusedface.recipes.host.terminal import plain, say

REFRESH_PER_SECOND = 4


@dataclass
class Status:
    """The figures to show; training figures are those of the last line of metrics."""

    name: str
    num_steps: int
    num_epochs: float
    batch_size: int
    initial_loss: float
    collapse_loss: float
    slope_gap: float = 0.0
    """F0 of the current margin; above 0 it pulls all cosines down together (docs/losses.md)."""
    pace_steps: float | None = None
    """1 / beta, the time scale of that pull in steps; None before it is known."""
    stage: str = ""
    """The current margin; empty if `schedule.loss` has only one."""
    step: int = 0
    seconds_per_step: float = 0.0
    lr: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    verification: dict[str, float] = field(default_factory=dict)
    """The last accuracy by set name."""

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.num_epochs * self.step / self.num_steps

    @property
    def images_per_second(self) -> float:
        """Images per second of the last training steps; 0 before it is known."""
        return self.batch_size / self.seconds_per_step if self.seconds_per_step else 0.0

    @property
    def eta(self) -> str:
        """Time left for training, such as "0:04:10"; "-" before it is known."""
        if not self.seconds_per_step:
            return "-"
        return str(timedelta(seconds=round((self.num_steps - self.step) * self.seconds_per_step)))


class Display(Protocol):
    """Receives the reports of a training."""

    def note(self, text: str) -> None:
        """Say something once."""
        ...

    def stepped(self, status: Status) -> None:
        """Called after each step."""
        ...

    def logged(self, status: Status) -> None:
        """Called when the figures of `status` are new."""
        ...

    def close(self) -> None:
        """End the display."""
        ...


class PlainDisplay:
    """Prints a line whenever the figures are new."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def note(self, text: str) -> None:
        """Say something once."""
        say(self.console, text)

    def stepped(self, status: Status) -> None:
        """Do nothing, because a line per step would be too many."""

    def logged(self, status: Status) -> None:
        """Print the line."""
        parts = [
            f"step {status.step}/{status.num_steps}",
            f"epoch {status.epoch:.2f}/{status.num_epochs:.2f}",
            f"{status.images_per_second:.1f} images/s",
            f"ETA {status.eta}",
        ]
        parts += [f"{name} {value}" for name, value in _figures(status)]
        say(self.console, " | ".join(parts))

    def close(self) -> None:
        """Do nothing."""


class LiveDisplay:
    """Redraws a panel in place."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True)
        self._live.start()

    def note(self, text: str) -> None:
        """Say something once, above the panel."""
        say(self._live.console, text)

    def stepped(self, status: Status) -> None:
        """Draw the panel again."""
        self._live.update(_panel(status))

    def logged(self, status: Status) -> None:
        """Draw the panel again."""
        self._live.update(_panel(status))

    def close(self) -> None:
        """Remove the panel, so that later output starts on a clean line."""
        self._live.stop()


def make_display(console: Console) -> Display:
    """The live panel on a terminal that can redraw it, plain lines elsewhere."""
    # FORCE_COLOR makes a file a terminal for rich, and a panel would be written to it again and again.
    redraws = console.is_terminal and not console.is_dumb_terminal and console.file.isatty()
    return LiveDisplay(console) if redraws else PlainDisplay(console)


def _figures(status: Status) -> list[tuple[str, str]]:
    """Label and text of every known figure."""
    landmarks = f"(random {status.initial_loss:.1f}, collapsed {status.collapse_loss:.1f})"
    shown = [("loss", f"{status.figures['loss']:.2f} {landmarks}")] if status.figures else []
    shown += [("of", status.stage)] if status.stage else []
    if status.figures:
        steps = "" if status.pace_steps is None else f", 1/beta {status.pace_steps:,.0f} steps"
        shown.append(("F0", f"{status.slope_gap:.2f}{steps}"))
    for key, label, form in (
        ("target_cosine", "target cosine", ".3f"),
        *((name, name, ".3f") for name in STATE_NAMES),
        ("teacher_cosine", "teacher cosine", ".3f"),
        ("distillation_loss", "distillation", ".2f"),
        ("hard_share", "hard", ".1%"),
    ):
        if key in status.figures:
            shown.append((label, format(status.figures[key], form)))
    shown.append(("lr", f"{status.lr:.3g}"))
    shown += [
        (f"verified on {name}", f"{value:.2%}") for name, value in status.verification.items()
    ]
    return shown


def _panel(status: Status) -> Panel:
    line = Text.assemble(
        (f"step {status.step:,} / {status.num_steps:,}", "bold"),
        f"   epoch {status.epoch:.2f} / {status.num_epochs:.2f}",
        f"   {status.images_per_second:.1f} images/s   ETA {status.eta}",
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    for name, value in _figures(status):
        grid.add_row(plain(name), plain(value))
    bar = ProgressBar(total=status.num_steps, completed=status.step)
    return Panel(Group(line, bar, Text(), grid), title=plain(status.name), title_align="left")
