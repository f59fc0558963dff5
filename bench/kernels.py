"""How fast and how small is the fused head against what one would use instead?

Run: python cli.py bench kernels                  the grid that suits the device
     python cli.py bench kernels --shape 256x85742x128 --rounds 15
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch

from fusedface.bench.case import Case
from fusedface.bench.memory import peak_extra_mib
from fusedface.bench.peers import Loss, Provider, installed, providers
from fusedface.bench.timing import alternate, paired_ratio, quartiles
from fusedface.kernels import margin_loss


@dataclass(frozen=True)
class Row:
    """One provider on one case: forward and backward together."""

    case: Case
    provider: str
    low_ms: float | None = None  # 25 %
    median_ms: float | None = None
    high_ms: float | None = None  # 75 %
    ratio: float | None = None  # time over that of `base`, median over the rounds
    peak_extra_mib: float | None = None
    loss_error: float | None = None  # relative, against the float64 reference
    note: str = ""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def run(
    cases: Iterable[Case],
    device: torch.device,
    rounds: int,
    only: str = "",
    memory: bool = True,
    on_row: Callable[[Row], None] = lambda row: None,  # noqa: ARG005
) -> list[Row]:
    """Time every provider whose name contains `only` on every case; checked before it is timed.

    Args:
        cases: what to run.
        device: where.
        rounds: timed runs of each provider, in turn with the others.
        only: a part of the names of the providers to run, "" for all; what the ratios are against
            (`base`) always runs.
        memory: also measure peak extra memory.
        on_row: called with each finished row.
    """
    rows = []
    for case in cases:
        for row in _run_case(case, device, rounds, only, memory):
            on_row(row)
            rows.append(row)
    return rows


def parse_cases(shapes: Iterable[str], phases: Iterable[str]) -> list[Case]:
    """Cases from texts such as "256x85742x128" and "start" or "late".

    Raises:
        ValueError: a text is neither.
    """
    cases = []
    for shape in shapes:
        sizes = shape.lower().split("x")
        if len(sizes) != 3 or not all(size.isdigit() and int(size) > 0 for size in sizes):
            raise ValueError(f"a shape must be BxCxD such as 256x85742x128, got {shape!r}")
        for phase in phases:
            if phase not in ("start", "late"):
                raise ValueError(f"a phase must be start or late, got {phase!r}")
            rows, classes, dim = map(int, sizes)
            cases.append(Case(rows, classes, dim, phase))
    return cases


def base(provider: Provider) -> str:
    """The provider that its ratio is against: our float32 head with the same loss."""
    return f"fused {provider.margin.name} float32"


def _run_case(case: Case, device: torch.device, rounds: int, only: str, memory: bool) -> list[Row]:
    inputs = case.inputs(device)
    steps: dict[str, Callable[[], object]] = {}
    errors: dict[str, float] = {}
    notes: dict[str, str] = {}
    everything = providers(case.t)
    bases = {base(p) for p in everything if only in p.name}
    chosen = [p for p in everything if only in p.name or p.name in bases]
    truths = {}
    for provider in chosen:
        if not installed(provider):
            notes[provider.name] = f"{provider.needs} is not installed"
            continue
        try:
            loss = provider.make()
            if provider.margin not in truths:
                truths[provider.margin] = _truth(provider, case)
            errors[provider.name] = _error(loss, inputs, truths[provider.margin])
        except (RuntimeError, MemoryError, ImportError) as error:
            notes[provider.name] = f"failed: {str(error).splitlines()[0][:80]}"
            continue
        if errors[provider.name] > provider.tolerance:
            notes[provider.name] = f"wrong loss: off by {errors[provider.name]:.1e}, not timed"
            continue
        steps[provider.name] = _step(loss, inputs)
    seconds = alternate(steps, device, rounds)
    return [
        _row(case, p, seconds, errors, notes, device, memory and p.name in seconds) for p in chosen
    ]


def _row(
    case: Case,
    provider: Provider,
    seconds: dict[str, list[float]],
    errors: dict[str, float],
    notes: dict[str, str],
    device: torch.device,
    memory: bool,
) -> Row:
    name = provider.name
    if name not in seconds:
        return Row(case, name, loss_error=errors.get(name), note=notes[name])
    low, mid, high = (1e3 * q for q in quartiles(seconds[name]))
    against = seconds.get(base(provider))
    ratio = paired_ratio(seconds[name], against) if against else None
    peak = peak_extra_mib(case, name, device) if memory else None
    return Row(case, name, low, mid, high, ratio, peak, errors[name])


def _step(
    loss: Loss, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> Callable[[], None]:
    embeddings, weight, labels = inputs

    def step() -> None:
        embeddings.grad = weight.grad = None
        loss(embeddings, weight, labels).backward()

    return step


def _error(
    loss: Loss, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor], truth: float
) -> float:
    return abs(loss(*inputs).item() - truth) / truth


def _truth(provider: Provider, case: Case) -> float:
    """Mean loss in float64, a few rows at a time so that the reference fits."""
    embeddings, weight, labels = (a.detach() for a in case.inputs(torch.device("cpu")))
    state = {"t": torch.tensor(case.t, dtype=torch.float64)}
    total = 0.0
    for start in range(0, case.num_rows, 32):
        part = slice(start, start + 32)
        out = margin_loss(
            embeddings[part].double(), weight.double(), labels[part], provider.margin,
            state=state if "t" in provider.margin.initial_state() else None,
            backend="reference", reduction="sum",
        )  # fmt: skip
        total += out.loss.item()
    return total / case.num_rows
