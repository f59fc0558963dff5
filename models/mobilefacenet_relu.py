"""MobileFaceNet with ReLU, the variant of it for phones: https://arxiv.org/abs/1804.07573, section 3.3.

PReLU is a little more accurate there. ReLU is a part of the convolution before it in the 8-bit kernels
of phones, and costs nothing. 995,584 parameters and 220.97 M multiply-adds at 112x112 and 128 dimensions:
MobileFaceNet without its 7,552 slopes.
"""

from fusedface.models.mobilefacenet import MobileFaceNet


class MobileFaceNetReLU(MobileFaceNet):
    """`MobileFaceNet` with ReLU in place of PReLU everywhere, and 512 dimensions by default.

    Args:
        embedding_dim: D.
        input_size: (H, W), multiples of 16.
        width: multiplies every channel count, rounded to multiples of 8.

    Raises:
        ValueError: a size is outside its range.
    """

    name = "mobilefacenet_relu"

    def __init__(
        self,
        embedding_dim: int = 512,
        input_size: tuple[int, int] = (112, 112),
        width: float = 1.0,
    ) -> None:
        super().__init__(embedding_dim, input_size, width, activation="relu")
        for fixed in ("activation", "stem_activation", "stem_pointwise", "embedding_bias"):
            del self.config[fixed]
