"""Formats for phones, with batch size 1: ExecuTorch (XNNPACK), and LiteRT, formerly TensorFlow Lite."""

from pathlib import Path

import numpy as np
import torch

from fusedface.recipes.export.job import Job
from fusedface.recipes.export.onnx_float import quiet

EXECUTORCH_USAGE = """\
from executorch.runtime import Runtime

method = Runtime.get().load_program("{file}").load_method("forward")
(embedding,) = method.execute([data])  # data: torch.float32 (1, 3, {height}, {width})
"""
LITERT_USAGE = """\
from ai_edge_litert.interpreter import Interpreter

runner = Interpreter("{file}").get_signature_runner()
(embedding,) = runner(args_0=data).values()  # data: (1, 3, {height}, {width}) float32
"""


def write_executorch(job: Job, path: Path) -> None:
    """Write a .pte whose operators all run in XNNPACK."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # pyright: ignore[reportMissingImports]
    from executorch.exir import to_edge_transform_and_lower  # pyright: ignore[reportMissingImports]

    with torch.no_grad(), quiet():
        program = torch.export.export(job.network, (job.network.example(1),))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)


def open_executorch(path: Path):
    """Run a .pte with ExecuTorch's runtime."""
    from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]

    method = Runtime.get().load_program(str(path)).load_method("forward")

    def run(data: np.ndarray) -> np.ndarray:
        # A copy: the runtime writes every result to the same memory.
        images = (torch.from_numpy(image[None]) for image in data)
        return np.concatenate([method.execute([image])[0].numpy().copy() for image in images])

    return run


def write_litert(job: Job, path: Path) -> None:
    """Write a .tflite."""
    import litert_torch  # pyright: ignore[reportMissingImports]

    with torch.no_grad(), quiet():
        litert_torch.convert(job.network, (job.network.example(1),)).export(str(path))


def open_litert(path: Path):
    """Run a .tflite with LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    runner = Interpreter(str(path)).get_signature_runner()

    def run(data: np.ndarray) -> np.ndarray:
        return np.concatenate([next(iter(runner(args_0=image[None]).values())) for image in data])

    return run
