"""Class sampling and fused updates on several processes, each of which runs each case."""

import math

import pytest
import torch
import torch.distributed as dist
from margin_oracle import inputs, loss_and_gradients, matched_state, relative

from fusedface.kernels import MARGINS, CurricularFace, HeadOptions, MagFace, margin_loss
from fusedface.kernels.sampling import LARGEST
from fusedface.kernels.sharded import classes_of
from fusedface.models import MarginHead, update_only_sampled

DIM, ROWS, CLASSES = 8, 12, 203  # of four ranks the last has two classes fewer
RATE = 0.3


def margins():
    counts = tuple(1 + 7 * i % 30 for i in range(CLASSES))
    made = {name: kind(s=16.0).with_class_counts(counts) for name, kind in MARGINS.items()}
    return made | {"magface": MagFace(s=16.0, l_a=1.0, u_a=10.0)}


def every_margin(rank, num_ranks):
    """Against the oracle with the samples of all ranks, each of which stands for its own classes."""
    embeddings, weight, labels = inputs(ROWS, CLASSES, DIM, dtype=torch.float64)
    labels[1] = -1
    shards = [classes_of(CLASSES, r, num_ranks) for r in range(num_ranks)]
    own = shards[rank]
    tested = margins().items() if num_ranks == 4 else [("curricularface", CurricularFace(s=16.0))]
    for number, (name, margin) in enumerate(tested):
        torch.manual_seed(number)
        x = embeddings.chunk(num_ranks)[rank].clone().requires_grad_()
        w = weight[own.start : own.stop].clone().requires_grad_()
        state = matched_state(margin, embeddings, torch.float64)
        out = margin_loss(
            x, w, labels.chunk(num_ranks)[rank], margin, state=state, training=True,
            process_group="world", sample_rate=RATE,
        )  # fmt: skip
        out.loss.backward()
        mine = w.grad.coalesce().indices()[0]
        kept = [None] * num_ranks
        dist.all_gather_object(kept, mine)
        assert [len(k) for k in kept] == [math.ceil(RATE * len(shard) - 1e-9) for shard in shards]
        added = offsets(shards, kept, labels)
        loss, dx, dw = loss_and_gradients(
            margin, embeddings, weight, labels, out.state, added=added
        )
        assert relative(out.per_sample_loss.detach(), loss) < 1e-9, name
        assert relative(x.grad, num_ranks * dx.chunk(num_ranks)[rank]) < 1e-9, name
        assert relative(w.grad.to_dense(), dw[own.start : own.stop]) < 1e-9, name
    assert len({tuple(k.tolist()) for k in kept}) == num_ranks  # no two ranks draw alike


def offsets(shards, kept, labels):
    """What is added to the logits of negatives: a class that was drawn stands for others of its rank."""
    added = torch.full((len(labels), CLASSES), -torch.inf, dtype=torch.float64)
    for shard, rows in zip(shards, kept, strict=True):
        num, count = len(shard), len(rows)
        is_here = (labels >= shard.start) & (labels < shard.stop)
        logs = torch.tensor([num / count, (num - 1) / (count - 1)], dtype=torch.float64).log()
        share = logs[is_here.long()]
        added[:, rows + shard.start] = share[:, None].expand(-1, count)
    return added


def small_shards(rank, num_ranks):
    """A rank keeps a place for each row of the batch, whatever the rate."""
    classes, rows = 16 * num_ranks, 12
    embeddings, _, labels = inputs(rows, classes, DIM)
    torch.manual_seed(0)
    head = MarginHead(DIM, classes, CurricularFace(), process_group="world", sample_rate=0.5)
    optimizer = update_only_sampled(
        torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    )
    for _ in range(2):
        before = head.weight.detach().clone()
        optimizer.zero_grad()
        head(embeddings.chunk(num_ranks)[rank], labels.chunk(num_ranks)[rank]).loss.backward()
        optimizer.step()
        assert (head.weight != before).any(dim=1).sum() == rows
    head.options = HeadOptions(sample_rate=0.1)
    with pytest.raises(ValueError, match=f"B / C = 12 / {classes}"):
        head(embeddings.chunk(num_ranks)[rank], labels.chunk(num_ranks)[rank])


def fused(rank, num_ranks):
    """Class centres learn in the backward of each rank as those of one process by its optimiser."""
    own = classes_of(CLASSES, rank, num_ranks)
    weights = []
    for group in (None, "world"):
        torch.manual_seed(0)
        head = MarginHead(DIM, CLASSES, CurricularFace(s=16.0), process_group=group).double()
        optimizer = torch.optim.SGD(
            head.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1
        )
        if group:
            head.fuse(optimizer)
        for step in range(3):
            rows, _, labels = inputs(ROWS, CLASSES, DIM, seed=step, dtype=torch.float64)
            if group:
                rows, labels = rows.chunk(num_ranks)[rank], labels.chunk(num_ranks)[rank]
            optimizer.zero_grad()
            head(rows, labels).loss.backward()
            optimizer.step()
        weights.append(head.weight.detach())
    assert relative(weights[1], weights[0][own.start : own.stop]) < 1e-9
    assert head.weight.grad is None


def fused_few(rank, num_ranks):
    """A rank with one class updates it in the backward, and one without classes has nothing to do."""
    for classes in (num_ranks, num_ranks + 1):
        own = classes_of(classes, rank, num_ranks)
        found = []
        for group, is_fused in ((None, False), ("world", True)):
            torch.manual_seed(0)
            head = MarginHead(DIM, classes, CurricularFace(s=16.0), process_group=group).double()
            optimizer = torch.optim.SGD(
                head.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1
            )
            if is_fused:
                head.fuse(optimizer)
            for step in range(3):
                rows, _, labels = inputs(ROWS, classes, DIM, seed=step, dtype=torch.float64)
                if group:
                    rows, labels = rows.chunk(num_ranks)[rank], labels.chunk(num_ranks)[rank]
                optimizer.zero_grad()
                loss = head(rows, labels).loss
                loss.backward(retain_graph=True)
                assert head.weight.grad is None or not is_fused
                optimizer.step()
            found.append((head.weight.detach(), optimizer.state[head.weight]["momentum_buffer"]))
        for mine, whole in zip(*reversed(found), strict=True):
            assert mine.shape == (len(own), DIM)
            assert not len(own) or relative(mine, whole[own.start : own.stop]) < 1e-9
        if own:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()


def fused_sampled(rank, num_ranks):
    """The drawn class centres of each rank make the step that its optimiser would make."""
    found = []
    for is_fused in (True, False):
        torch.manual_seed(0)
        head = MarginHead(
            DIM, CLASSES, CurricularFace(s=16.0), process_group="world", sample_rate=RATE
        ).double()
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        if is_fused:
            head.fuse(optimizer)
        update_only_sampled(optimizer)
        for step in range(3):
            rows, _, labels = inputs(ROWS, CLASSES, DIM, seed=step, dtype=torch.float64)
            torch.manual_seed(step)
            if not is_fused:
                torch.randint(LARGEST, ())  # as a fused update does, for its rounding
            optimizer.zero_grad()
            head(rows.chunk(num_ranks)[rank], labels.chunk(num_ranks)[rank]).loss.backward()
            assert (head.weight.grad is None) == is_fused
            optimizer.step()
        found.append(head.weight.detach())
    assert relative(*found) < 1e-9


def rounded_alike(rank, num_ranks):
    """bfloat16 class centres are rounded by their class, whichever rank has them."""
    own = classes_of(CLASSES, rank, num_ranks)
    weights = []
    for group in (None, "world"):
        torch.manual_seed(0)
        head = MarginHead(DIM, CLASSES, CurricularFace(s=16.0), process_group=group)
        head.to(torch.bfloat16)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        head.fuse(optimizer)
        rows, _, labels = inputs(ROWS, CLASSES, DIM)
        if group:
            rows, labels = rows.chunk(num_ranks)[rank], labels.chunk(num_ranks)[rank]
        head(rows, labels).loss.backward()
        weights.append(head.weight.detach())
    # Sums in another order differ in float32's last bits, which rarely decide up or down.
    same = (weights[1] == weights[0][own.start : own.stop]).float().mean()
    assert same > 0.99


CENTRES = {
    "class centres: " + case.__name__: case
    for case in (every_margin, small_shards, fused, fused_few, fused_sampled, rounded_alike)
}
