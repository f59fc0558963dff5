"""A network as it is deployed: one graph from an aligned face to its embedding.

Software that follows InsightFace feeds a recogniser with (x - 127.5) / 127.5 of the aligned RGB face. If
the graph begins with a subtraction and a multiplication, it feeds grey levels. So a network that was
trained with (x - 127.5) / 127.5 is exported unchanged, unless grey levels are asked for (OpenCV's
cv2.FaceRecognizerSF feeds only these). Any other network includes its normalisation and takes grey levels.
A crop (112x96 out of the aligned 112x112) is part of the graph. Mirroring is not: the caller may join the
features of both mirror images.
"""

import torch
from torch import Tensor, nn

from fusedface.models import Backbone
from fusedface.recipes.evaluation.input_contract import USUAL, InputContract


class Deployed(nn.Module):
    """A backbone with the preprocessing that the caller does not do: (B, 3, H, W) to (B, D) float32.

    Args:
        backbone: on the CPU; it is set to evaluation mode.
        grey_levels: take grey levels, also for a network of (x - 127.5) / 127.5.
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
        """An example input (batch, 3, H, W) for tracing."""
        return torch.zeros(batch, 3, *self.contract.size)
