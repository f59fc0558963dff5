"""What the tests of exports share: faces, and who embeds them."""

import io
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console

from fusedface.models import Backbone

EXACT = 1e-5  # of embeddings of length 1; 1e-6 is met
SIZE = 32


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def faces(number=5, size=SIZE) -> np.ndarray:
    """(B, H, W, 3) uint8 RGB, different in each channel and not symmetric."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(30, 226, size=(number, 4, 4, 3))
    noise = rng.integers(-20, 21, size=(number, size, size, 3))
    return (
        (coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2) + noise)
        .clip(0, 255)
        .astype(np.uint8)
    )


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_pytorch(model: Backbone, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return unit(model(model.preprocessing.images_to_tensor(torch.from_numpy(images))))


def by_insightface(path: Path, images_bgr: np.ndarray) -> np.ndarray:
    """What insightface's recogniser does with a file and aligned faces as OpenCV reads them, restated.

    python-package/insightface/model_zoo/arcface_onnx.py: names of the first eight nodes decide on
    mean and deviation; the first input gives name and size; there is one output; channels are swapped.
    """
    names = [node.name for node in onnx.load(path).graph.node[:8]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in names)
    multiplies = any(name.startswith(("Mul", "_mul")) for name in names)
    mean, std = (0.0, 1.0) if subtracts and multiplies else (127.5, 127.5)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    taken = session.get_inputs()[0]
    assert isinstance(taken.shape[0], str)  # any batch; their evaluation asks for a name here
    assert tuple(taken.shape[1:]) == (3, *images_bgr.shape[1:3])  # else they would resize
    blob = (images_bgr[..., ::-1].astype(np.float32) - mean) * (1 / std)
    blob = blob.transpose(0, 3, 1, 2).astype(np.float32)
    rows = session.run([output.name], {taken.name: blob})[0]
    return unit(rows)
