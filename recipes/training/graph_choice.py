"""Whether steps come from a CUDA graph: what `train.cuda_graph` means for a run."""

import torch

from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.training.recorder import CudaRecorder


def choose_recorder(
    recipe: Recipe, device: torch.device, num_processes: int, *, is_scaled: bool
) -> CudaRecorder | None:
    """What records the steps of a run; None if each is made by itself.

    Args:
        recipe: the recipe of the run.
        device: where steps are computed.
        num_processes: that share the run.
        is_scaled: whether the loss is scaled, as for float16.

    Raises:
        ValueError: the setting is "on", and the steps of this run cannot be recorded.
    """
    optim = recipe.optim
    reasons = {
        "it needs a CUDA device": device.type != "cuda",
        "several processes": num_processes > 1,
        "a teacher": recipe.teacher.network is not None,
        "optim.accumulate": optim.accumulate > 1,
        "optim.fuse_centres": optim.fuse_centres,
        "head.sample_rate below 1": recipe.head.sample_rate < 1.0,
        "float16": is_scaled,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if recipe.train.cuda_graph == "on" and found:
        raise ValueError(f"train.cuda_graph must be off or auto here: {', '.join(found)}")
    return None if found or recipe.train.cuda_graph == "off" else CudaRecorder(device)
