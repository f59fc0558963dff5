"""Backbones by name, their checkpoints and preprocessing, and the margin head."""

from fusedface.models.backbone import Backbone
from fusedface.models.checkpoints import (
    LoadedCheckpoint,
    build_from_checkpoint,
    load_checkpoint,
)
from fusedface.models.complexity import count_macs, count_parameters
from fusedface.models.head import MarginHead
from fusedface.models.head_checkpoints import load_head, read_head
from fusedface.models.preprocessing import Preprocessing
from fusedface.models.registry import MODELS, create
from fusedface.models.sampled_rows import update_only_sampled
from fusedface.models.starting_point import StartingPoint

__all__ = [
    "MODELS",
    "Backbone",
    "LoadedCheckpoint",
    "MarginHead",
    "Preprocessing",
    "StartingPoint",
    "build_from_checkpoint",
    "count_macs",
    "count_parameters",
    "create",
    "load_checkpoint",
    "load_head",
    "read_head",
    "update_only_sampled",
]
