"""A row of a result: the figures of one head on one case."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from fusedface.bench.case import Case

Triple = tuple[float, float, float]  # quartiles: 25, 50 and 75 %


@dataclass(frozen=True)
class Row:
    """One head on one case. `ms` and `ratios` are by pass: forward, backward, both of them, step."""

    case: Case
    head: str
    ms: dict[str, Triple] = field(default_factory=dict)  # quartiles
    ratios: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # to each base, median over the rounds
    peak_extra_mib: float | None = None
    errors: dict[str, float] | None = None  # relative, against float64: `failures.Errors`
    flops_per_second: float | None = None  # of what the head computes, forward and backward
    bytes_per_second: float | None = None
    of_limit: float | None = (
        None  # least time of any implementation on this machine, over the time of this head
    )
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`; accepts the lists that JSON makes of tuples."""
        ms = {name: tuple(triple) for name, triple in values["ms"].items()}
        return cls(**(values | {"case": Case(**values["case"]), "ms": ms}))
