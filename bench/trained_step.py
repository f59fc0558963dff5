"""Images a second of the steps that `recipe run` makes: eager, from a CUDA graph, compiled, and both.

`bench step` times parts of a step, with a wait between them. Here nothing waits between steps, so the host
works ahead of the device. Batches lie in (pinned) memory; `bench data` measures what makes them. Their
pixels are noise: to render the faces of four batches of 512 takes longer than all the steps.

Run: python cli.py bench trained-step --batch 512
Only its eager and compiled steps have run, and only on a CPU.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch

from fusedface.bench.heads.loss import M, S
from fusedface.bench.timing import alternate, quartiles
from fusedface.bench.training_steps import Setup
from fusedface.data import FaceBatch, SyntheticFaces
from fusedface.kernels import CurricularFace, HeadOptions
from fusedface.models import create
from fusedface.recipes.configuration.recipe import Optim, Recipe, Schedule, Train
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.graphed import WARM_UP
from fusedface.recipes.training.learner import Learner
from fusedface.recipes.training.parts import make_learner
from fusedface.recipes.training.plan import make_plan
from fusedface.recipes.training.precision import pick_precision
from fusedface.recipes.training.seeding import in_fixed_order

WAYS = {  # train.compile and train.cuda_graph
    "eager": ("off", "off"),
    "CUDA graph": ("off", "on"),
    "compiled": ("on", "off"),
    "compiled, CUDA graph": ("on", "on"),
}
STEPS = 10  # between two readings of the clock
WARM = WARM_UP + 2  # steps: after them everything is compiled, recorded and checked
NUM_BATCHES = 4


def ways(device: torch.device, *, compiled: bool) -> list[str]:
    """The ways to make a step on a device; a CPU has no graphs."""
    found = WAYS if device.type == "cuda" else ("eager", "compiled")
    return [name for name in found if compiled or "compiled" not in name]


@in_fixed_order()
def run(
    setup: Setup,
    device: torch.device,
    rounds: int,
    names: list[str],
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
    on_rows: Callable[[list[dict[str, Any]]], None] = lambda rows: None,  # noqa: ARG005
) -> list[dict[str, Any]]:
    """Time steps with each of these ways in turn, each on its own network.

    Args:
        setup: network, images a step, classes and size.
        device: where steps are computed.
        rounds: readings of the clock of each, after STEPS steps.
        names: keys of WAYS.
        note: called with what is being done.
        on_rows: called with all rows whenever one more way has been timed.

    Returns:
        One row per way: quartiles of images a second, and in `said` what the trainer said of compiling and
        of the graph, such as why one is off.
    """
    steps: dict[str, _Steps] = {}
    rows: list[dict[str, Any]] = []
    for name in names:
        note(f"{setup}: {name}")
        steps[name] = _Steps(setup, device, *WAYS[name])
        first = alternate({name: steps[name].timed}, rounds=min(rounds, 3))
        rows.append(_row(setup, name, steps[name], first[name]))
        on_rows(rows)
    note(f"{setup}: all in turn")
    figures = alternate({name: one.timed for name, one in steps.items()}, rounds)
    return [_row(setup, name, one, figures[name]) for name, one in steps.items()]


class _Steps:
    """The learner of a run and its batches; `said` has the lines it writes for the user."""

    def __init__(self, setup: Setup, device: torch.device, compiling: str, graph: str) -> None:
        torch.manual_seed(0)
        self.said: list[str] = []
        self._device, self._setup = device, setup
        model = create(setup.model, input_size=(setup.size, setup.size))
        self._batches = itertools.cycle(noise(setup, device))
        self._learner = self._made(_recipe(setup, compiling, graph), model)
        self._learner.prepare(0)
        self._num_made = 0
        self._make(WARM)

    def _made(self, recipe: Recipe, model: Any) -> Learner:
        source = SyntheticFaces(self._setup.num_rows, 2, image_size=model.input_size)
        processes = Processes()
        plan = make_plan(recipe, source, processes)
        precision = pick_precision("auto", self._device)
        return make_learner(
            recipe, model, self._setup.num_classes, plan, precision, processes, self.said.append
        )

    def timed(self) -> dict[str, float]:
        """Images a second of STEPS steps."""
        began = time.perf_counter()
        self._make(STEPS)
        return {"rate": STEPS * self._setup.num_rows / (time.perf_counter() - began)}

    def _make(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self._learner.learn(self._num_made % 2, next(self._batches))
            self._num_made += 1
        self._learner.figures()  # as in a run every `log_every` steps; it waits for the device


def _recipe(setup: Setup, compiling: str, graph: str) -> Recipe:
    """CurricularFace at the size of the setup; two epochs of two steps, whose rates come over and over."""
    return Recipe(
        name="trained-step",
        summary="the step that is timed",
        head=HeadOptions(margin=CurricularFace(m=M, s=S)),
        optim=Optim(batch_size=setup.num_rows, lr=0.01),
        schedule=Schedule(epochs=2.0, warmup_steps=0),
        train=Train(compile=compiling, cuda_graph=graph),  # pyright: ignore[reportArgumentType]
    )


def noise(setup: Setup, device: torch.device) -> list[FaceBatch]:
    """NUM_BATCHES batches on the host, with noise for images; pinned for a GPU."""
    generator = torch.Generator().manual_seed(0)
    shape = (setup.num_rows, setup.size, setup.size, 3)
    batches = [
        FaceBatch(
            images=torch.randint(256, shape, generator=generator, dtype=torch.uint8),
            labels=torch.randint(setup.num_classes, shape[:1], generator=generator),
            unreadable=(),
            mirrored=torch.randint(2, shape[:1], generator=generator).bool(),
        )
        for _ in range(NUM_BATCHES)
    ]
    if device.type != "cuda":
        return batches
    return [
        batch._replace(
            images=batch.images.pin_memory(),
            labels=batch.labels.pin_memory(),
            mirrored=batch.mirrored.pin_memory(),
        )
        for batch in batches
    ]


def _row(setup: Setup, name: str, steps: _Steps, figures: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "model": setup.model,
        "way": name,
        "num_rows": setup.num_rows,
        "num_classes": setup.num_classes,
        "size": setup.size,
        "images_per_second": quartiles(figures["rate"]),
        "said": steps.said,
    }
