"""Whether the passes of a run are compiled: what `train.compile` means on this machine."""

from collections.abc import Callable
from typing import NamedTuple

from fusedface.recipes.configuration.train import Switch
from fusedface.recipes.training.precision import Precision

PAYS_AFTER = 6 * 60
"""Seconds of training on a CPU without compiled loops after which compiling has paid for itself. It took 37
to 49 s, and a step was then 1.15 times as fast (Intel Xeon; docs/training.md)."""
MACS_PER_SECOND = 6.5e9
"""Multiply-adds per second and thread, those of a forward counted for a whole step: MobileFaceNet at 30
images/s on one thread of an AMD EPYC. It is a constant, so that no timing decides the bits of a run."""


class Choice(NamedTuple):
    """Whether to compile."""

    on: bool
    why: str
    is_auto: bool = False
    is_possible: bool = True
    """False if something stands against it, also where a run goes on that was compiled before."""


def choose(
    setting: Switch,
    *,
    precision: Precision,
    num_processes: int,
    changes_in_pass: bool,
    num_macs: Callable[[], int],
    num_threads: int,
    has_loops: Callable[[], bool],
) -> Choice:
    """What `train.compile` means for a run.

    Args:
        setting: the setting.
        precision: device and dtype.
        num_processes: that share the run.
        changes_in_pass: whether the passes change class centres, so that none can be tried twice.
        num_macs: multiply-adds of the run, one forward of each image.
        num_threads: of a CPU.
        has_loops: whether compiled loops serve the layers of a CPU; a short run does not ask.

    Raises:
        ValueError: the setting is "on", and this run cannot be compiled.
    """
    obstacle = None
    if num_processes > 1:
        obstacle = "a run of several processes is not compiled"
    elif changes_in_pass:
        obstacle = "class centres change within a pass (optim.fuse_centres, adadistill)"
    if setting == "on":
        if obstacle is not None:
            raise ValueError(f"train.compile must be off or auto here: {obstacle}")
        return Choice(on=True, why="as set")
    if setting == "off":
        return Choice(on=False, why="as set")
    if obstacle is not None:
        return Choice(on=False, why=obstacle, is_auto=True, is_possible=False)
    if precision.device.type == "cuda":
        return Choice(on=True, why="on a GPU", is_auto=True)
    if precision.device.type != "cpu":
        return Choice(
            on=False, why=f"no use of it on {precision.device.type} is known", is_auto=True
        )
    minutes = num_macs() / (MACS_PER_SECOND * num_threads) / 60
    run = f"the run trains for about {minutes:,.0f} minutes, and compiling"
    if 60 * minutes < PAYS_AFTER:
        return Choice(on=False, why=f"{run} never pays before {PAYS_AFTER // 60}", is_auto=True)
    if has_loops():
        return Choice(on=False, why="the layers have compiled loops on this CPU", is_auto=True)
    return Choice(on=True, why=f"{run} pays from {PAYS_AFTER // 60} on", is_auto=True)
