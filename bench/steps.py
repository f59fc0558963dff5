"""One step of the head, timed pass by pass: forward, backward, update of the class centres."""

from collections.abc import Callable

import torch

from fusedface.bench.case import Inputs
from fusedface.bench.heads.loss import Loss
from fusedface.bench.timing import Stopwatch

Run = Callable[[], dict[str, float]]  # seconds by pass
WARM_UP_STEPS = 3  # on a side stream before a capture, as torch requires for CUDA graphs


def make_optimizer(inputs: Inputs) -> torch.optim.SGD:
    """The optimiser of the class centres, with learning rate 0 so that the inputs do not change."""
    return torch.optim.SGD([inputs[1]], lr=0.0, momentum=0.9, weight_decay=5e-4, nesterov=True)


def step_run(loss: Loss, inputs: Inputs, optimizer: torch.optim.SGD, watch: Stopwatch) -> Run:
    """A timed step. `both` is forward and backward, `step` is both and the update."""
    embeddings, weight, _ = inputs
    values: list[torch.Tensor] = []

    def run() -> dict[str, float]:
        forward, backward, update = watch(
            [
                lambda: values.append(loss(*inputs)),
                lambda: values.pop().backward(),
                optimizer.step,
            ]
        )
        embeddings.grad = weight.grad = None
        both = forward + backward
        return {"forward": forward, "backward": backward, "both": both, "step": both + update}

    return run


def graph_run(loss: Loss, inputs: Inputs, optimizer: torch.optim.SGD, watch: Stopwatch) -> Run:
    """A timed step that replays forward and backward from a CUDA graph, without single kernel launches."""
    embeddings, weight, _ = inputs
    side = torch.cuda.Stream(embeddings.device)
    side.wait_stream(torch.cuda.current_stream(embeddings.device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_STEPS):
            loss(*inputs).backward()
            embeddings.grad = weight.grad = None
    torch.cuda.current_stream(embeddings.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss(*inputs).backward()
    gradients = embeddings.grad, weight.grad

    def run() -> dict[str, float]:
        embeddings.grad, weight.grad = gradients
        both, update = watch([graph.replay, optimizer.step])
        embeddings.grad = weight.grad = None
        return {"both": both, "step": both + update}

    embeddings.grad = weight.grad = None
    return run
