"""Class centres that learn in the backward of the Triton kernels, on several processes.

The truth is a head of one process in float64, with an ordinary optimiser.
"""

import torch
from margin_oracle import inputs, relative

from fusedface.kernels import CurricularFace
from fusedface.kernels.gpu import layout
from fusedface.kernels.sharded import classes_of
from fusedface.models import MarginHead

DIM, ROWS = 18, 12


def moved(num_classes, rank, num_ranks, **options):
    """Class centres, momentum and gradients of the embeddings after two steps, and what they should be."""
    found = []
    for is_shared in (True, False):
        torch.manual_seed(0)
        head = MarginHead(
            DIM, num_classes, CurricularFace(s=16.0), precision="float32",
            backend="triton" if is_shared else "reference",
            process_group="world" if is_shared else None,
        )  # fmt: skip
        head = head if is_shared else head.double()
        optimizer = torch.optim.SGD(
            head.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
        )
        if is_shared:
            head.fuse(optimizer, **options)
        gradients = []
        for step in range(2):
            rows, _, labels = inputs(ROWS, num_classes, DIM, seed=step, dtype=head.weight.dtype)
            labels[step], labels[-1 - step] = -1, num_classes - 1
            if is_shared:
                rows, labels = rows.chunk(num_ranks)[rank], labels.chunk(num_ranks)[rank]
            rows = rows.clone().requires_grad_()
            optimizer.zero_grad()
            head(rows, labels).loss.backward()
            optimizer.step()
            gradients.append(rows.grad)
        assert head.weight.grad is None or not is_shared
        state = optimizer.state[head.weight]["momentum_buffer"]
        found.append((head.weight.detach(), state, torch.stack(gradients)))
    own = classes_of(num_classes, rank, num_ranks)
    weight, momentum, gradients = found[1]
    here = slice(own.start, own.stop)
    rows = gradients.chunk(num_ranks, dim=1)[rank]
    return found[0], (weight[here], momentum[here], num_ranks * rows)


def in_chunks(rank, num_ranks):
    """Several chunks on each rank, with unit rows of all its class centres and without."""
    layout.CHUNK_BYTES = 1
    layout.CHUNK_MULTIPLE = layout.UPDATE_MULTIPLE = 128
    for keeps in (True, False):
        for actual, truth in zip(*moved(403, rank, num_ranks, keeps_unit_rows=keeps), strict=True):
            assert relative(actual, truth) < 1e-4


def few_classes(rank, num_ranks):
    """The last rank has one class, which no kernel takes."""
    for actual, truth in zip(*moved(num_ranks + 1, rank, num_ranks), strict=True):
        assert relative(actual, truth) < 1e-4


CASES = {case.__name__: case for case in (in_chunks, few_classes)}
