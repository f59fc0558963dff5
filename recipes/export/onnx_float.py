"""ONNX, float32: one file, batch of any size, input `data`, output `embedding`.

PReLU is written as (1 - a) max(x, 0) + a x: ONNX Runtime's own operator for it is so slow on CPUs that
MobileFaceNet takes several times as long with it (docs/export.md).

InsightFace's software decides its input from the names of the first eight nodes: grey levels if one begins
with "Sub" and another with "Mul", else (x - 127.5) / 127.5. `finish` names our nodes to match.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fusedface.recipes.evaluation.onnx_recogniser import cpu_session
from fusedface.recipes.export.deployed import Deployed
from fusedface.recipes.export.job import Job

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18  # the oldest that torch writes without conversion: ONNX Runtime 1.14, February 2023
INPUT, OUTPUT = "data", "embedding"
NORMALISING = ("Sub_mean", "Mul_scale")  # names of the nodes
USAGE = """\
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(embeddings,) = session.run(["embedding"], {{"data": data}})  # data: (B, 3, {height}, {width}) float32
"""


def write(job: Job, path: Path) -> None:
    """Write the network."""
    import onnx

    onnx.save(_build(job), path)


@lru_cache(maxsize=1)  # the 8-bit file of the same job is made from it
def _build(job: Job) -> "ModelProto":
    import onnx

    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            _split_prelu(job.network),
            (job.network.example(2),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # only the old exporter returns nothing
    model = finish(program.model_proto, job.network)
    onnx.checker.check_model(model, full_check=True)
    return model


def _split_prelu(network: Deployed) -> Deployed:
    """A copy with PReLUs composed of other operators."""
    copied = copy.deepcopy(network)
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.PReLU):
                setattr(module, name, _SplitPReLU(child.weight))
    return copied


class _SplitPReLU(nn.Module):
    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope.detach().view(-1, 1, 1))
        self.register_buffer("rest", 1 - self.slope)

    slope: Tensor
    rest: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.rest * x.relu() + self.slope * x


def finish(model: "ModelProto", network: Deployed) -> "ModelProto":
    """Remove the exporter's notes, rename the normalising nodes and put them first, describe the input.

    The notes contain source lines and paths of the exporting machine.
    """
    import onnx

    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
    if network.normalises:
        first = _name_normalising(graph.node)
        rest = [node for node in graph.node if node.name not in NORMALISING]
        del graph.node[:]
        graph.node.extend([*first, *rest])
    model.producer_name = "fusedface"
    backbone = network.backbone
    onnx.helper.set_model_props(
        model,
        {
            "backbone": json.dumps(backbone.config),
            "preprocessing": json.dumps(backbone.preprocessing.as_dict()),
            "input": f"RGB, (x - {network.contract.mean:g}) / {network.contract.std:g}",
        },
    )
    return model


def _name_normalising(nodes) -> list[Any]:
    """Rename and return the node that subtracts from the input and the one that multiplies its result."""
    tensor, found = INPUT, []
    for name in NORMALISING:
        node = next(n for n in nodes if tensor in n.input)
        copied = type(node)()
        copied.CopyFrom(node)
        node.name = copied.name = name
        tensor = node.output[0]
        found.append(copied)
    return found


def open_run(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Run a file with ONNX Runtime, on as many threads as torch uses."""
    session = cpu_session(str(path))
    return lambda data: np.asarray(session.run([OUTPUT], {INPUT: data})[0])


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, hide the exporters' warnings on packages and internals."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
