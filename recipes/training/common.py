"""The common components of embeddings and class centres (docs/losses.md (10))."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fusedface.recipes.host.processes import Processes

ROWS = 16384  # class centres per chunk, to avoid a second copy of all of them


@torch.no_grad()
def common_component(embeddings: Tensor, centres: Tensor, processes: Processes) -> dict[str, float]:
    """Figures for a line of metrics. They are read from the device, so not at every step.

    Args:
        embeddings: (B, D) of the newest batch, this process's part.
        centres: (C, D), this process's part.
        processes: the processes that share both.

    Returns:
        embedding_common: a, the length of the mean unit embedding, extrapolated to infinitely many images.
        centre_common: b, the component of the mean unit class centre opposite to that mean; above 0 the
            class centres have turned away from the embeddings.
        centre_length: mean length of the class centres, |w|.
    """
    sums = torch.zeros(2, embeddings.shape[1] + 2, device=centres.device)
    unit = normalize(embeddings.float(), dim=1)
    sums[0, :-2], sums[0, -2] = unit.sum(0), len(unit)
    for stored in centres.split(ROWS):
        rows = stored.float()  # only these: class centres in bfloat16 have no room for a copy
        lengths = rows.norm(dim=1)
        sums[1, :-2] += (rows / lengths.clamp_min(1e-12)[:, None]).sum(0)
        sums[1, -2:] += torch.stack([lengths.new_tensor(len(rows)), lengths.sum()])
    sums = processes.sum(sums)
    mean, count = sums[:, :-2] / sums[:, -2:-1], sums[0, -2]
    # B vectors that have nothing in common have a mean of length B^-1/2.
    spread = ((count * mean[0].square().sum() - 1.0) / (count - 1.0)).clamp_min(0.0).sqrt()
    common = -(mean[0] @ mean[1]) / spread if spread > 0.0 else spread
    length = sums[1, -1] / sums[1, -2]
    values = torch.stack([spread, common, length]).tolist()
    return dict(zip(("embedding_common", "centre_common", "centre_length"), values, strict=True))
