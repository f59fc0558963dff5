"""A network as it is deployed: one graph from an aligned face to its embedding.

Software that follows InsightFace feeds a recogniser (x - 127.5) / 127.5 of the aligned RGB face, or, where
the graph begins by subtracting and multiplying, the grey levels themselves. So a network that was trained
with the first is exported as it is, unless grey levels are asked for (OpenCV's cv2.FaceRecognizerSF feeds
nothing else); any other brings its own normalisation and takes grey levels. A crop
(112x96 out of the aligned 112x112) is part of the graph. Mirroring is not: whoever compares features joins
those of both mirror images, or does without.
"""

import torch
from torch import Tensor, nn

from fusedface.models import Backbone
from fusedface.recipes.evaluation.input_contract import USUAL, InputContract


class Deployed(nn.Module):
    """A backbone with what its preprocessing needs besides the caller's: (B, 3, H, W) to (B, D) float32.

    Args:
        backbone: on the CPU; put into evaluation mode.
        grey_levels: bring the normalisation (x - 127.5) / 127.5 too.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone, grey_levels: bool = False) -> None:
        super().__init__()
        self.backbone = backbone.eval()
        taken = backbone.preprocessing
        self.normalises = grey_levels or not taken.mean == taken.std == (USUAL,) * 3
        size = taken.image_size
        self.contract = (
            InputContract(size, 0.0, 1.0) if self.normalises else InputContract(size, USUAL, USUAL)
        )
        self.top, self.left = ((size[i] - taken.input_size[i]) // 2 for i in (0, 1))
        if self.normalises:
            self.register_buffer("mean", torch.tensor(taken.mean).view(1, 3, 1, 1))
            self.register_buffer("scale", 1 / torch.tensor(taken.std).view(1, 3, 1, 1))

    def forward(self, data: Tensor) -> Tensor:
        """Embeddings, not normalised; `data` is the name of the input in every format."""
        if self.normalises:
            data = (data - self.mean) * self.scale
        H, W = self.backbone.input_size
        if self.contract.size != (H, W):
            data = data[:, :, self.top : self.top + H, self.left : self.left + W]
        return self.backbone(data)

    def example(self, batch: int) -> Tensor:
        """An input (batch, 3, H, W) to trace with."""
        return torch.zeros(batch, 3, *self.contract.size)
