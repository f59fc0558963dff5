"""A small untrained network as a checkpoint of ours, and faces for it."""

import numpy as np
import torch
from PIL import Image

from fusedface.data import SyntheticFaces
from fusedface.models import create, edgeface, ghostfacenet, mobilefacenet
from fusedface.models.checkpoints import FORMAT, VERSION
from fusedface.models.mbf import MBF

SIZE = 32


def small_network(flip="sum"):
    """Takes 32x32, in evaluation mode, with statistics as after training."""
    from dataclasses import replace

    torch.manual_seed(0)
    model = create("mobilefacenet", embedding_dim=16, input_size=(SIZE, SIZE), width=0.25)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    model.preprocessing = replace(model.preprocessing, flip=flip)
    return model.eval()


def shortened(patch):
    """Backbones with each kind of block that they have, and few of a kind; `patch` is a monkeypatch.

    An export takes its time for every block.
    """
    rows = [(*row[:2], 1, row[3]) for row in mobilefacenet.BOTTLENECKS]
    patch.setattr(mobilefacenet, "BOTTLENECKS", tuple(rows))
    kinds = {}
    for row in ghostfacenet.BOTTLENECKS:
        kinds.setdefault(row if row.stride == 2 else (row.kernel, row.squeezes), row)
    patch.setattr(ghostfacenet, "BOTTLENECKS", tuple(kinds.values()))
    stages = [stage._replace(depth=1 + (stage.scales > 0)) for stage in edgeface.STAGES]
    patch.setattr(edgeface, "STAGES", tuple(stages))
    patch.setattr(MBF, "repeats", (1, 1, 1, 1))


def save_network(model, path):
    """Write a checkpoint."""
    content = {"format": FORMAT, "version": VERSION, "step": 7, "backbone": model.config}
    content |= {"preprocessing": model.preprocessing.as_dict(), "model": model.state_dict()}
    torch.save(content, path)
    return path


def write_generated(root, people=8, images=4, size=SIZE):
    """A folder a person, of generated faces; returns the root."""
    source = SyntheticFaces(people, images, image_size=(size, size))
    for i in range(len(source)):
        path = root / f"person{source.labels[i]:02d}" / f"{i % images}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.image(i)).save(path)
    return root


def embeddings_of(model, paths):
    """Mirror features joined, (N, D) float64, an image at a time and straight from the network."""
    rows = []
    for path in paths:
        image = torch.from_numpy(np.array(Image.open(path).convert("RGB")))[None]
        inputs = model.preprocessing.images_to_tensor(image)
        with torch.no_grad():
            one, other = model(inputs), model(inputs.flip(3))
        joined = torch.cat([one, other], 1) if model.preprocessing.flip == "concat" else one + other
        rows.append(joined[0].double().numpy())
    return np.stack(rows)
