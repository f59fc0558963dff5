"""Makes what computes the gradients of a run's steps, compiled or not, from its recipe."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from fusedface.models import count_macs
from fusedface.models.loops.library import loops
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.compile_choice import choose
from fusedface.recipes.training.compiling import Compiling
from fusedface.recipes.training.passes import Passes
from fusedface.recipes.training.precision import Precision

if TYPE_CHECKING:
    from fusedface.models import Backbone, MarginHead
    from fusedface.recipes.training.distillation import Distiller
    from fusedface.recipes.training.schedule import Plan


def make_passes(
    recipe: Recipe,
    model: "Backbone",
    head: "MarginHead",
    scaler: torch.amp.GradScaler,
    plan: "Plan",
    precision: Precision,
    processes: Processes,
    distiller: "Distiller | None",
    note: Callable[[str], None],
) -> Compiling:
    """The passes of a run.

    Args:
        recipe: the recipe of the run.
        model: its backbone, on the device.
        head: its head, on the device.
        scaler: scales the loss.
        plan: the plan of the run.
        precision: device and dtype.
        processes: the processes that share each step.
        distiller: a teacher and its method; None without a teacher.
        note: called with a line for the user.
    """
    passes = Passes(
        model,
        head,
        scaler,
        precision=precision,
        channels_last=recipe.train.channels_last,
        processes=processes,
        distiller=distiller,
        num_parts=recipe.optim.accumulate,
    )
    num_images = plan.num_steps * plan.batches.batch_size
    choice = choose(
        recipe.train.compile,
        precision=precision,
        num_processes=processes.count,
        changes_in_pass=recipe.optim.fuse_centres or recipe.teacher.places_centres,
        num_macs=lambda: num_images * count_macs(model, model.input_size),
        num_threads=torch.get_num_threads(),
        has_loops=lambda: loops() is not None,
    )
    return Compiling(passes, model, head, choice, precision.dtype, note)
