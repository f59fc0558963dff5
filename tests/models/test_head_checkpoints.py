"""Heads from files: each published form fills ours, and what is no head is refused by name."""

import pytest
import torch
from margin_oracle import inputs
from official_head import official_loss
from public_nets import Net, mobilefacenet_gdc

from fusedface.kernels import AdaFace, ArcFace, CurricularFace
from fusedface.models import MarginHead, load_head, read_head
from fusedface.models.checkpoints import FORMAT, VERSION

CLASSES, DIM = 30, 16


def file_of(kind, weight, t):
    """What a file of this kind holds, for centres (C, D) and t 0-d."""
    official = {"kernel": weight.T.contiguous(), "t": t.reshape(1)}
    backbone = Net()
    if kind == "bubbliiiing":
        mobilefacenet_gdc(backbone, torch.zeros(1, 3, 112, 112), D=DIM)
    return {
        "official": official,
        "official, training": {"EPOCH": 3, "HEAD": official, "OPTIMIZER": {"state": {}}},
        "partial fc": {"weight": weight},
        "checkpoint_gpu": {"epoch": 2, "state_dict_softmax_fc_module": {"weight": weight}},
        "bubbliiiing": backbone.state | {"head.weight": weight},
        "ours": {"format": FORMAT, "version": VERSION, "head": {"weight": weight, "t": t}},
        "our state": {"weight": weight, "t": t},
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["official", "official, training", "partial fc", "checkpoint_gpu", "bubbliiiing", "ours", "our state"],
)  # fmt: skip
def test_each_kind_fills_a_head(tmp_path, kind):
    embeddings, weight, labels = inputs(8, CLASSES, DIM)
    t = torch.tensor(0.3)
    torch.save(file_of(kind, weight, t), tmp_path / "head.pth")
    head = MarginHead(DIM, CLASSES, CurricularFace())
    load_head(head, tmp_path / "head.pth")
    assert torch.equal(head.weight, weight.float())
    has_t = "t" in read_head(tmp_path / "head.pth")
    assert head.t == (t if has_t else 0)
    expected = official_loss(weight.T, head.t.reshape(1), embeddings, labels)
    torch.testing.assert_close(head.eval()(embeddings, labels).loss, expected)


def test_a_state_that_is_not_there_stays(tmp_path):
    torch.save({"kernel": torch.ones(DIM, CLASSES)}, tmp_path / "head.pth")
    head = MarginHead(DIM, CLASSES, AdaFace())
    head.norm_mean.fill_(7.0)
    load_head(head, tmp_path / "head.pth")
    assert head.norm_mean == 7
    assert head.norm_std == 100


WRONG = {
    "no head": ({"epoch": torch.tensor(1.0)}, r"must hold the class centres.*keys are: epoch"),
    "both": ({"kernel": torch.ones(DIM, CLASSES), "weight": torch.ones(CLASSES, DIM)}, "of one head"),
    "vector": ({"kernel": torch.ones(DIM)}, r"'kernel' must be a matrix, got \(16,\)"),
    "empty": ({"weight": torch.ones(0, DIM)}, r"must be a matrix, got \(0, 16\)"),
    "integers": ({"kernel": torch.ones(DIM, CLASSES, dtype=torch.long)}, "finite floating-point"),
    "text": ({"kernel": "x"}, "finite floating-point"),
    "nan": ({"kernel": torch.full((DIM, CLASSES), float("nan"))}, "finite floating-point"),
    "sparse": ({"kernel": torch.eye(DIM).to_sparse()}, "finite floating-point"),
    "one number for all": ({"weight": torch.zeros(1, 1).expand(2**44, 1)}, "finite floating-point"),
    "meta": ({"kernel": torch.ones(DIM, CLASSES, device="meta")}, "finite floating-point"),
    "long state": ({"kernel": torch.ones(DIM, CLASSES), "t": torch.ones(2)}, "'t' must be one number"),
    "turned": ({"weight": torch.ones(DIM, CLASSES)}, "16 classes in 30 dimensions, the head has 30 in 16"),
    "other margin": (
        {"kernel": torch.ones(DIM, CLASSES), "t": torch.ones(1)}, "state t, which .* 'arcface' has not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(tmp_path, case):
    content, message = WRONG[case]
    torch.save(content, tmp_path / "head.pth")
    head = MarginHead(DIM, CLASSES, ArcFace())
    before = head.weight.clone()
    with pytest.raises(ValueError, match=message) as caught:
        load_head(head, tmp_path / "head.pth")
    assert "head.pth" in str(caught.value)
    assert torch.equal(head.weight, before)
