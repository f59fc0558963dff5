"""Who is decayed by how much, and that Nesterov's formula is the one in use."""

import copy
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from small_models import shortened
from tiny_run import checkpoint_at, tiny_recipe, write_faces
from torch import nn

from fusedface.kernels import CentreSGD
from fusedface.models import MODELS, MarginHead, create
from fusedface.recipes.configuration.recipe import Optim, Schedule
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training import optim as optim_module
from fusedface.recipes.training.average import WeightAverage
from fusedface.recipes.training.optim import build_optimizer, parameter_groups
from fusedface.recipes.training.rates import set_rate
from fusedface.recipes.training.untraced import untraced

QUIET = Console(quiet=True)


def build(name="mobilefacenet"):
    with torch.device("meta"):
        return create(name, embedding_dim=8, input_size=(32, 32)), MarginHead(8, 5)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_exactly_one_group(name):
    model, head = build(name)
    grouped = [id(p) for group in parameter_groups(model, head, Optim()) for p in group["params"]]
    everything = [id(p) for p in (*model.parameters(), *head.parameters())]
    assert sorted(grouped) == sorted(everything)
    assert len(set(grouped)) == len(grouped)


@pytest.mark.parametrize("name", MODELS)
def test_the_decay_of_each_parameter(name):
    model, head = build(name)
    groups = parameter_groups(model, head, Optim(weight_decay=4e-5, weight_decay_head=4e-4))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(head.weight)] == 4e-4
    seen = set()
    modules = dict(model.named_modules())
    for name_, parameter in model.named_parameters():
        owner = modules[name_.rpartition(".")[0]]
        if parameter.ndim == 1 or isinstance(owner, nn.PReLU):
            expected = 0.0  # BN's scale and shift, PReLU's slopes, biases: all are vectors
        else:
            expected = 4e-4 if name_.startswith("embedding.") else 4e-5
        assert decay[id(parameter)] == expected, name_
        seen.add(expected)
    assert seen == {0.0, 4e-5, 4e-4}


@pytest.mark.parametrize("name", ["edgeface_xs", "edgeface_s"])
def test_scales_of_edgeface_are_not_decayed(name):
    model, head = build(name)
    groups = {group["name"]: group["params"] for group in parameter_groups(model, head, Optim())}
    undecayed = {id(parameter) for parameter in groups["undecayed"]}
    scales = [key for key in model.state_dict() if key.endswith(("temperature", "scale.weight"))]
    # a temperature and two scales for each of three attention blocks, a scale for each of fifteen others
    assert len(scales) == 3 * 3 + 15
    norms = [f"{key}.weight" for key, m in model.named_modules() if isinstance(m, nn.LayerNorm)]
    assert {id(model.get_parameter(key)) for key in scales + norms} <= undecayed


def test_the_class_centres_have_a_rate_of_their_own():
    model, head = build()
    optimizer = build_optimizer(model, head, Optim(lr=0.1, lr_head=0.4))
    set_rate(optimizer, 0.05)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.pop(id(head.weight)) == pytest.approx(0.2)
    assert set(rates.values()) == {0.05}


def test_adamw_by_hand():
    """Loshchilov and Hutter, Algorithm 2, with its schedule multiplier taken into the rate."""
    torch.manual_seed(0)
    model = create("mobilefacenet", embedding_dim=8, input_size=(32, 32), width=0.25).double()
    head = MarginHead(8, 5).double()
    optim = Optim(
        kind="adamw", lr=0.01, momentum=0.8, beta2=0.95, weight_decay=0.1, weight_decay_head=0.2
    )
    optimizer = build_optimizer(model, head, optim)
    for parameter, decay in (
        (model.stem[0].weight, 0.1),
        (head.weight, 0.2),
        (model.stem[1].bias, 0),
    ):
        expected = parameter.detach().clone()
        first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        for step in (1, 2):
            optimizer.zero_grad()
            parameter.grad = torch.randn_like(parameter)
            first = 0.8 * first + 0.2 * parameter.grad
            second = 0.95 * second + 0.05 * parameter.grad.square()
            size = first / (1 - 0.8**step) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
            expected = expected - 0.01 * decay * expected - 0.01 * size
            optimizer.step()
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-14)


def test_two_steps_by_hand():
    """Sutskever's form as torch has it: v <- mu v + g, w <- w - lr (g + mu v), with g = dL/dw + wd w."""
    torch.manual_seed(0)
    model = create("mobilefacenet", embedding_dim=8, input_size=(32, 32), width=0.25).double()
    head = MarginHead(8, 5).double()
    optim = Optim(lr=0.1, momentum=0.8, weight_decay=0.01, weight_decay_head=0.02)
    optimizer = build_optimizer(model, head, optim)
    for parameter, decay in ((model.stem[0].weight, 0.01), (head.weight, 0.02)):
        expected, velocity = parameter.detach().clone(), torch.zeros_like(parameter)
        for _ in range(2):
            optimizer.zero_grad()
            parameter.grad = torch.randn_like(parameter)
            gradient = parameter.grad + decay * expected
            velocity = 0.8 * velocity + gradient
            expected -= 0.1 * (gradient + 0.8 * velocity)
            optimizer.step()
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("rate", "settings", "kind"),
    [
        (1.0, {}, CentreSGD),
        (1.0, {"fuse_centres": True}, torch.optim.SGD),
        (0.5, {}, torch.optim.SGD),
        (1.0, {"kind": "adamw"}, torch.optim.AdamW),
    ],
    ids=["sgd", "updated in the backward", "sampled", "adamw"],
)
def test_a_gpu_steps_whole_class_centres_by_a_kernel(monkeypatch, rate, settings, kind):
    model = create("mobilefacenet", embedding_dim=8, input_size=(32, 32), width=0.25)
    head = MarginHead(8, 64, sample_rate=rate)
    on_cpu = build_optimizer(model, head, Optim(**settings))
    expected = torch.optim.AdamW if kind is torch.optim.AdamW else torch.optim.SGD
    assert isinstance(on_cpu, expected)
    assert not isinstance(on_cpu, CentreSGD)
    monkeypatch.setattr(optim_module, "_is_on_gpu", lambda _: True)
    assert type(build_optimizer(model, head, Optim(**settings))) is kind


@pytest.mark.parametrize("before", [False, True])
def test_a_run_goes_on_with_the_other_sgd_to_the_same_bits(monkeypatch, tmp_path, before):
    """CentreSGD reads what torch's SGD has saved, and the other way round, through a checkpoint."""
    shortened(monkeypatch)
    faces = write_faces(tmp_path)
    whole = replace(tiny_recipe(faces), schedule=Schedule(epochs=1.0, warmup_steps=2))
    run_recipe(whole, tmp_path / "whole", device="cpu", console=QUIET)
    monkeypatch.setattr(optim_module, "_is_on_gpu", lambda _: before)
    run_recipe(whole, tmp_path / "part", device="cpu", console=QUIET)
    for late in (tmp_path / "part" / "checkpoints").glob("*.pt"):
        if torch.load(late, weights_only=True)["step"] > 3:
            late.unlink()
    (tmp_path / "part" / "summary.json").unlink()
    monkeypatch.setattr(optim_module, "_is_on_gpu", lambda _: not before)
    run_recipe(whole, tmp_path / "part", resume=True, device="cpu", console=QUIET)
    ends = [checkpoint_at(tmp_path / run, 4) for run in ("whole", "part")]
    assert all(torch.equal(ends[1]["model"][k], v) for k, v in ends[0]["model"].items())
    momenta = [
        [state["momentum_buffer"] for state in end["optimizer"]["state"].values()] for end in ends
    ]
    assert len(momenta[0]) > 1
    assert all(map(torch.equal, *momenta))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_untraced_optimiser_is_torchs_to_the_bit(kind):
    """Weights and state, also after a state was saved and loaded, and hooks of a step."""
    options = {"lr": 0.1, "weight_decay": 0.01}
    options |= {"momentum": 0.9, "nesterov": True} if kind is torch.optim.SGD else {}
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(5, 3))
    theirs = nn.Parameter(ours.detach().clone())
    seen = []
    optimizers = [untraced(kind)([ours], **options), kind([theirs], **options)]
    for optimizer in optimizers:
        optimizer.register_step_post_hook(lambda *arguments: seen.append(arguments[0]))
    for step in range(4):
        ours.grad = torch.randn(5, 3)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(ours, theirs)
        assert ours.grad is None
        if step == 1:
            optimizers[0].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    states = [optimizer.state_dict()["state"][0] for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert seen == optimizers * 4
    assert ours.requires_grad


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_untraced_optimiser_is_copied_whole(kind, copied):
    """By `copy` and by `pickle`: the copy is one too, with its own state, and steps its own weights."""
    weight = nn.Parameter(torch.ones(2, 3))
    optimizer = untraced(kind)([weight], lr=0.1, weight_decay=0.01)
    weight.grad = torch.full((2, 3), 0.5)
    optimizer.step()
    other = copied(optimizer)
    (mine,) = other.param_groups[0]["params"]
    mine.grad = weight.grad.clone()
    optimizer.step()
    other.step()
    assert isinstance(other, kind)
    assert other is not optimizer
    assert mine is not weight
    assert torch.equal(mine, weight)


def test_a_run_on_a_cpu_does_not_import_the_tracer_of_torch_compile():
    """Its import takes a second. Optimiser and multiply-adds are where torch would import it."""
    code = """
import sys, torch
from fusedface.models import MarginHead, count_macs, create
from fusedface.recipes.configuration.optim import Optim
from fusedface.recipes.training.optim import build_optimizer, plain_state
model, head = create("mobilefacenet", input_size=(32, 32), width=0.25), MarginHead(128, 5)
assert count_macs(model, (32, 32)) > 0
for kind in ("sgd", "adamw"):
    optimizer = build_optimizer(model, head, Optim(kind=kind))
    optimizer.zero_grad()
    head(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).loss.backward()
    optimizer.step()
    optimizer.load_state_dict(plain_state(optimizer))
assert "torch._dynamo" not in sys.modules, "imported"
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_an_average_of_weights_by_hand():
    """d = (1 + n) / (10 + n) early on; also of a network without integers (edgeface has no batch norm)."""
    for model in (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), nn.Linear(3, 2)):
        average = WeightAverage(model, 0.9)
        expected = {key: value.clone() for key, value in model.state_dict().items()}
        for step in (1, 2):
            for value in model.state_dict().values():
                value.add_(step)
            d = (1 + step) / (10 + step)
            for key, value in model.state_dict().items():
                is_whole = not value.is_floating_point()
                expected[key] = value.clone() if is_whole else d * expected[key] + (1 - d) * value
            average.update(model, step)
        for key, value in average.model.state_dict().items():
            torch.testing.assert_close(value, expected[key])
