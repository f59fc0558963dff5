"""The published CurricularFace head, restated."""

import torch
import torch.nn.functional as F


def official_loss(kernel, t, embeddings, labels, m=0.5, s=64.0):
    """The published head's: class centres as columns, the hard mask over all classes."""
    cos = F.normalize(embeddings) @ F.normalize(kernel, dim=0)
    cos_y = cos.gather(1, labels[:, None])
    theta = torch.acos(cos_y)
    target = torch.where(
        theta < torch.pi - m, torch.cos(theta + m), cos_y - m * torch.tensor(m).sin()
    )
    z = torch.where(cos > torch.cos(theta + m), cos * (t + cos), cos).scatter(
        1, labels[:, None], target
    )
    return F.cross_entropy(s * z, labels)
