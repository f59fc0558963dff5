"""What docs/head.md says of the head in loops of others: its code runs, and its sentences hold."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from margin_oracle import inputs, relative
from official_head import official_loss

from fusedface.kernels import AdaFace, ArcFace, CurricularFace
from fusedface.models.head import MarginHead

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "head.md"
CLASSES, DIM = 30, 16


def make_head(margin=None, **options):
    torch.manual_seed(0)
    return MarginHead(DIM, CLASSES, margin or CurricularFace(), **options)


def test_the_code_of_the_readme(capsys):
    """As it is printed there, on two images: all classes, one forward and one backward."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    names = {"images": torch.randn(2, 3, 112, 112), "labels": torch.tensor([85741, -1])}
    exec(code, names)
    assert names["head"].weight.grad.isfinite().all()
    assert capsys.readouterr().out.strip()


def test_the_code_of_the_page(tmp_path, monkeypatch):
    """A published head taken over computes what it did; one of more classes keeps its people."""
    monkeypatch.chdir(tmp_path)
    embeddings, weight, labels = inputs(8, CLASSES, DIM)
    t = torch.tensor([0.3])
    torch.save({"kernel": weight.T.contiguous(), "t": t}, "head.pth")
    names = {"backbone": torch.nn.Linear(8, DIM)}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)

    head, larger = names["head"].eval(), names["larger"]
    expected = official_loss(weight.T, t, embeddings, labels)
    torch.testing.assert_close(head(embeddings, labels).loss, expected)

    assert larger.num_classes == 12
    assert torch.equal(larger.weight[:3], weight[[0, 1, 4]])
    assert larger.weight[3:].abs().max() < 0.1
    assert larger.t == head.t == t

    cos = F.normalize(names["embeddings"]) @ F.normalize(larger.weight.detach()).T
    rank = (cos > cos.gather(1, names["labels"][:, None])).sum(dim=1)
    assert names["hits"] == (rank < 5).float().mean()


def test_cosines_are_those_of_the_loss():
    head = make_head(ArcFace()).eval()
    embeddings, _, labels = inputs(8, CLASSES, DIM, dtype=torch.bfloat16)
    out, cos = head(embeddings, labels), head.cosines(embeddings.requires_grad_())
    assert cos.dtype == torch.float32
    assert not cos.requires_grad
    torch.testing.assert_close(cos.gather(1, labels[:, None])[:, 0], out.target_cosine)
    assert torch.equal(cos.argmax(dim=1) == labels, out.correct)


def test_accumulation():
    """The gradient of the large batch, and one step of the state for each micro-batch."""
    embeddings, _, labels = inputs(12, CLASSES, DIM)
    whole = make_head(ArcFace())
    whole(embeddings, labels).loss.backward()
    parts = make_head(ArcFace())
    for x, y in zip(embeddings.split(4), labels.split(4), strict=True):
        (parts(x, y).loss / 3).backward()
    assert relative(parts.weight.grad, whole.weight.grad.double()) < 1e-5  # sums in another order

    head, expected = make_head(CurricularFace(t_momentum=0.1)), 0.0
    for x, y in zip(embeddings.split(4), labels.split(4), strict=True):
        expected = 0.9 * expected + 0.1 * head(x, y).target_cosine.mean().item()
    assert head.t.item() == pytest.approx(expected, rel=1e-5)


def test_double_backward_of_the_reference_only():
    embeddings, _, labels = inputs(5, CLASSES, DIM, dtype=torch.float64)
    head = make_head(backend="reference").double().eval()
    head.t.fill_(0.3)
    assert torch.autograd.gradgradcheck(lambda x: head(x, labels).loss, embeddings.requires_grad_())
    head.options = replace(head.options, backend="chunked")
    (grad,) = torch.autograd.grad(head(embeddings, labels).loss, embeddings, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_functional_transforms_of_the_reference_in_evaluation():
    embeddings, _, labels = inputs(5, CLASSES, DIM)
    head = make_head(backend="reference")
    head.t.fill_(0.3)

    def loss(x):
        return head(x, labels).loss

    with pytest.raises(RuntimeError, match="in-place"):
        torch.func.grad(loss)(embeddings)
    head.eval()
    x = embeddings.clone().requires_grad_()
    loss(x).backward()
    torch.testing.assert_close(torch.func.grad(loss)(embeddings), x.grad)
    _, slope = torch.func.jvp(loss, (embeddings,), (torch.ones_like(embeddings),))
    torch.testing.assert_close(slope, x.grad.sum())
    head.options = replace(head.options, backend="chunked")
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(loss)(embeddings)


def _on_two_ranks(rank, folder):
    """Under DDP and under FSDP: two steps each on this rank's half of a batch."""
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    embeddings, _, labels = inputs(8, CLASSES, DIM)
    x, y = embeddings.chunk(2)[rank], labels.chunk(2)[rank]
    result = {}
    ddp = DistributedDataParallel(make_head(AdaFace()))
    for _ in range(2):
        ddp.zero_grad()
        loss = ddp(x, y).loss
        loss.backward()
    result["ddp"] = [ddp.module.norm_mean.clone(), ddp.module.weight.grad.clone()]
    with torch.device("meta"):
        sharded = MarginHead(DIM, CLASSES)
    fully_shard(sharded, mesh=dist.init_device_mesh("cpu", (2,)))
    sharded.to_empty(device="cpu")
    sharded.reset_parameters()
    sharded.load_state_dict(_as_sharded(make_head().state_dict(), sharded))
    for _ in range(2):
        sharded.zero_grad()
        sharded(x, y).loss.backward()
    result["local rows"] = len(sharded.weight.to_local())
    result["fsdp"] = [sharded.t.clone(), sharded.weight.grad.full_tensor()]
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _as_sharded(state, like):
    from torch.distributed.tensor import distribute_tensor

    weight = like.weight
    return state | {
        "weight": distribute_tensor(state["weight"], weight.device_mesh, weight.placements)
    }


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
def test_two_ranks(tmp_path):
    """Gradients are those of the whole batch; states are of a rank's own samples, under DDP of rank 0's."""
    mp.spawn(_on_two_ranks, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    embeddings, _, labels = inputs(8, CLASSES, DIM)
    halves = [(x, y) for x, y in zip(embeddings.chunk(2), labels.chunk(2), strict=True)]

    def alone(margin, shared):
        """Two steps of a head on each half; `shared`: both start every step from the first one's state."""
        heads = [make_head(margin) for _ in halves]
        for _ in range(2):
            if shared:
                heads[1].load_state_dict(heads[0].state_dict())
            for head, (x, y) in zip(heads, halves, strict=True):
                head.zero_grad()
                head(x, y).loss.backward()
        return heads

    first, second = alone(CurricularFace(), shared=False)
    mean = (first.weight.grad + second.weight.grad) / 2
    for rank, head in zip(ranks, (first, second), strict=True):
        assert rank["local rows"] == CLASSES // 2
        torch.testing.assert_close(rank["fsdp"][0], head.t)
        torch.testing.assert_close(rank["fsdp"][1], mean)
    assert ranks[0]["fsdp"][0] != ranks[1]["fsdp"][0]

    first, second = alone(AdaFace(), shared=True)
    mean = (first.weight.grad + second.weight.grad) / 2
    for rank in ranks:
        torch.testing.assert_close(rank["ddp"][1], mean)
    torch.testing.assert_close(ranks[0]["ddp"][0], first.norm_mean)
