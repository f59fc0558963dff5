"""Steps of the class centres on a CUDA device, loss scales, exponentials kept; `pytest -m gpu`."""

import pytest
import torch
from margin_oracle import relative

from fusedface.kernels import CurricularFace
from fusedface.kernels.centre_sgd import CentreSGD
from fusedface.models import MarginHead

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = "cuda"  # gpu_emulated/test_of_device.py sets it to the emulated GPU's
STEPS, ROWS, CLASSES = 3, 48, 300
OPTIONS = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}


def by_torch(head):
    return torch.optim.SGD(head.parameters(), **OPTIONS)


def by_the_kernel(head):
    return CentreSGD(head.parameters(), head.weight, **OPTIONS)


def learned(make, dim, *, in_backward=False, scaler=None, spoiled=(), **options):
    """Class centres, momentum and embeddings' gradient after some steps; those `spoiled` are infinite."""
    generator = torch.Generator().manual_seed(0)
    head = MarginHead(
        dim, CLASSES, CurricularFace(s=16.0), backend="triton", device=DEVICE, **options
    )
    with torch.no_grad():
        head.weight.copy_(torch.randn(CLASSES, dim, generator=generator))
    optimizer = make(head)
    if in_backward:
        head.fuse(optimizer)
    for step in range(STEPS):
        rows = torch.randn(ROWS, dim, generator=generator).to(DEVICE).requires_grad_()
        labels = torch.randint(CLASSES, (ROWS,), generator=generator).to(DEVICE)
        optimizer.zero_grad()
        loss = head(rows, labels).loss * (torch.inf if step in spoiled else 1.0)
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    momentum = optimizer.state[head.weight]["momentum_buffer"]
    return [tensor.detach().cpu() for tensor in (head.weight, momentum, rows.grad)]


def hold(results, expected, tolerance):
    for actual, other in zip(results, expected, strict=True):
        assert relative(actual, other.double()) < tolerance


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("dim", [128, 512])
def test_the_kernels_step_is_torchs(dim, precision, tolerance):
    """From the second step on the forward takes the unit rows that the kernel left."""
    results = [learned(make, dim, precision=precision) for make in (by_the_kernel, by_torch)]
    hold(*results, tolerance)


@pytest.mark.parametrize("dim", [128, 512])
def test_class_centres_that_learn_in_the_backward_are_those_of_the_optimiser(dim):
    hold(
        learned(by_torch, dim, in_backward=True, precision="float32"),
        learned(by_torch, dim, precision="float32"),
        1e-4,
    )


@pytest.mark.parametrize("dim", [128, 512])
def test_exponentials_kept_change_only_rounding(dim):
    options = {"precision": "bfloat16"}
    hold(
        learned(by_torch, dim, keep_exponentials=True, **options),
        learned(by_torch, dim, **options),
        2e-2,
    )


def test_a_step_without_finite_gradients_is_skipped():
    """Nothing waits for the device: the kernel itself reads that the step is to be skipped."""
    scalers = [torch.amp.GradScaler(DEVICE, init_scale=2.0**10) for _ in range(2)]
    results = [
        learned(make, 128, scaler=scaler, spoiled=(1,), precision="float32")
        for make, scaler in zip((by_the_kernel, by_torch), scalers, strict=True)
    ]
    assert [scaler.get_scale() for scaler in scalers] == [2.0**9, 2.0**9]
    assert all(tensor.isfinite().all() for tensor in results[0][:2])
    hold(results[0][:2], results[1][:2], 1e-4)


def in_cuda_graph(call, state, prepare):
    """What repeats a call, after STEPS calls and `prepare`; `state` is what it changes."""
    side = torch.cuda.Stream()  # on which autograd's nodes of the leaves must have been made
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(STEPS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    prepare()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def learned_by(record, *, keeps_unit_rows, lr):
    """As `learned`, with steps that `record` repeats if it is not None, and a write between two of them."""
    generator = torch.Generator().manual_seed(0)
    options = {"precision": "bfloat16", "backend": "triton", "device": DEVICE}
    head = MarginHead(128, CLASSES, CurricularFace(s=16.0), **options)
    rows = torch.randn(ROWS, 128, generator=generator).to(DEVICE).requires_grad_()
    labels = torch.randint(CLASSES, (ROWS,), generator=generator).to(DEVICE)
    with torch.no_grad():
        head.weight.copy_(torch.randn(CLASSES, 128, generator=generator))
    optimizer = CentreSGD([head.weight], head.weight, **OPTIONS)
    optimizer.param_groups[0]["lr"] = lr
    if keeps_unit_rows:
        optimizer.keep_in_graphs()

    def step():
        rows.grad = None
        optimizer.zero_grad()
        head(rows, labels).loss.backward()
        optimizer.step()

    def state():
        return [head.weight, head.t, optimizer.state[head.weight]["momentum_buffer"]]

    if record is not None:
        step = record(step, state, optimizer.before_replay)
    else:
        for _ in range(STEPS):
            step()
    for number in range(STEPS + 2):
        if number == 2:
            with torch.no_grad():
                head.weight[::2].neg_()
        optimizer.before_replay()
        step()
    return [tensor.detach().cpu() for tensor in state()]


@pytest.mark.parametrize("keeps_unit_rows", [False, True])
@pytest.mark.parametrize("on_device", [False, True])
def test_steps_from_a_graph_have_the_same_bits(keeps_unit_rows, on_device):
    """Also after class centres that somebody writes between two replays."""
    lr = torch.tensor(0.1, device=DEVICE) if on_device else 0.1
    results = [
        learned_by(record, keeps_unit_rows=keeps_unit_rows, lr=lr)
        for record in (in_cuda_graph, None)
    ]
    assert all(map(torch.equal, *results))
