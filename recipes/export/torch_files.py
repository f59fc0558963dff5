"""Files that PyTorch reads: safetensors (weights, for this package), .pt2 (the program of torch.export).

TorchScript is not among them: torch.jit is deprecated in favour of torch.export.
"""

import json
from pathlib import Path

import numpy as np
import torch

from fusedface.models import build_from_checkpoint
from fusedface.models.archives import FORMAT, METADATA, VERSION
from fusedface.recipes.export.deployed import Deployed
from fusedface.recipes.export.job import Job
from fusedface.recipes.export.onnx_float import quiet

SAFETENSORS_USAGE = """\
from fusedface.models import build_from_checkpoint

model = build_from_checkpoint("{file}")
embeddings = model(model.preprocessing.images_to_tensor(images))  # images: (B, H, W, 3) uint8, RGB
"""
PT2_USAGE = """\
import torch

network = torch.export.load("{file}").module()
embeddings = network(data)  # data: (B, 3, {height}, {width}) float32
"""


def write_safetensors(job: Job, path: Path) -> None:
    """Write the weights, with backbone and preprocessing as the file's metadata."""
    from safetensors.torch import save

    backbone = job.network.backbone
    described = {
        "format": FORMAT,
        "version": VERSION,
        "backbone": backbone.config,
        "preprocessing": backbone.preprocessing.as_dict(),
    }
    if job.step is not None:
        described["step"] = job.step
    tensors = {name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    # Not save_file, which ignores the umask and makes files that only their owner can read.
    path.write_bytes(save(tensors, metadata={"format": "pt", METADATA: json.dumps(described)}))


def open_safetensors(path: Path):
    """Run the network that the file describes."""
    return _runner(Deployed(build_from_checkpoint(path)))


def write_pt2(job: Job, path: Path) -> None:
    """Write the program, for a batch of any size."""
    with torch.no_grad(), quiet():
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(
            job.network, (job.network.example(2),), dynamic_shapes=({0: batch},)
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # source lines and paths of this machine
        torch.export.save(program, path)


def open_pt2(path: Path):
    """Run the program."""
    with quiet():
        return _runner(torch.export.load(path).module())


def _runner(module: torch.nn.Module):
    def run(data: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(data)).numpy()

    return run
