"""What the processes of a run send each other, counted; each case runs in all of them."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from fusedface.bench import ranks
from fusedface.bench.case import Case
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.replicas import replicate, synchronise


def bytes_of_the_backbone(rank, num_ranks):
    """docs/scaling.md: 2 (N - 1) / N (4 (P + 1) + 16 F) for each step, on CPUs."""
    network = nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.PReLU(), nn.Linear(5, 4), nn.BatchNorm1d(4)
    ).float()
    num_parameters, num_features = sum(p.numel() for p in network.parameters()), 5 + 4
    processes = Processes(rank, num_ranks, dist.group.WORLD, dist.group.WORLD)
    replica = replicate(synchronise(network, processes), processes)
    replica.register_comm_hook(dist.group.WORLD, allreduce_hook)  # in place of the same in C++
    rows = torch.randn(3, 6, dtype=torch.float32)
    for _ in range(2):
        with Counting() as count:
            replica(rows).square().sum().backward()
        numbers = 4 * (num_parameters + 1) + 16 * num_features
        assert count.sent == 2 * (num_ranks - 1) * numbers // num_ranks


class Counting:
    """Counts what ring algorithms send from one rank, at the calls of torch.distributed themselves."""

    def __enter__(self):
        self.sent, ranks = 0, dist.get_world_size()
        self.kept = {}

        def nbytes(tensor):
            return tensor.numel() * tensor.element_size()

        rules = {
            "all_reduce": lambda tensor, *_: 2 * (ranks - 1) * nbytes(tensor) // ranks,
            "all_gather_single": lambda out, own: (ranks - 1) * nbytes(own),
            "all_gather_into_tensor": lambda out, own: (ranks - 1) * nbytes(own),
            "reduce_scatter_single": lambda own, rows: (ranks - 1) * nbytes(own),
            "reduce_scatter_tensor": lambda own, rows: (ranks - 1) * nbytes(own),
        }
        inside = []
        for name, rule in rules.items():
            if not hasattr(dist, name):
                continue
            original = self.kept[name] = getattr(dist, name)

            def counted(*tensors, _original=original, _rule=rule, **options):
                if not inside:  # one may be made of another
                    self.sent += _rule(*tensors)
                inside.append(1)
                try:
                    return _original(*tensors, **options)
                finally:
                    inside.pop()

            setattr(dist, name, counted)
        for name in (
            "send", "recv", "broadcast", "all_gather", "all_to_all", "reduce", "gather",
            "all_gather_object",
        ):  # fmt: skip
            self.kept[name] = getattr(dist, name)
            setattr(dist, name, _unexpected)
        return self

    def __exit__(self, *_):
        for name, original in self.kept.items():
            setattr(dist, name, original)


def _unexpected(*_, **__):
    raise AssertionError("a collective that docs/scaling.md does not count")


def timed_in_turn(rank, num_ranks):
    """`bench ranks` in the processes that are there."""
    rows = ranks.measure(Case(num_ranks, 20, 4), (1, num_ranks), rounds=2)
    assert [row["processes"] for row in rows] == [1, num_ranks]
    assert all(row["ms"] > 0 for row in rows)
    assert rows[0]["ratio"] == 1.0


TRAFFIC = {case.__name__: case for case in (bytes_of_the_backbone, timed_in_turn)}
