"""FusedFace: a fused margin-softmax head for face recognition, with small backbones and recipes."""

__version__ = "0.1.0"
