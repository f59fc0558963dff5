"""Read class centres from one file per process, by `torch.distributed.checkpoint`.

Torch would unpickle its `.metadata`; the description is that of the checkpoint instead
(`models/shard_files.py`). The files hold only tensors, which torch reads with `weights_only`.
"""

import warnings
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Size, Tensor
from torch.distributed.checkpoint import planner as plans
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load

from fusedface.models.shard_files import ShardFiles

WEIGHT = "weight"
"""The class centres among the tensors."""


def read_rows(
    files: ShardFiles, classes: range, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Some rows (len(classes), D) of each tensor on the CPU; no other process takes part.

    Args:
        files: which were checked.
        classes: which rows.
        names: of the tensors; None for all.

    Raises:
        ValueError: the files do not hold what the checkpoint says.
    """
    wanted = {n: saved for n, saved in files.tensors.items() if names is None or n in names}
    rows: dict[str, Tensor] = {
        name: torch.empty(len(classes), saved.size[1], dtype=saved.dtype)
        for name, saved in wanted.items()
    }
    reader, planner = _Reader(files), _LoadRows(classes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "assuming the intent is to load in a single process"
            load(rows, storage_reader=reader, planner=planner, no_dist=True)
    except CheckpointException as error:
        cause = str(error.failures[0][0])[:200]
        raise ValueError(
            f"{files.path} has damaged class centres in {files.folder}: {cause}"
        ) from None
    return rows


def all_centres(files: ShardFiles) -> Tensor:
    """All class centres (C, D) on the CPU.

    Raises:
        ValueError: a file is missing or damaged.
    """
    files.check()
    return read_rows(files, range(files.tensors[WEIGHT].size[0]), [WEIGHT])[WEIGHT]


def some_centres(files: ShardFiles, classes: Sequence[int]) -> Tensor:
    """The class centres (K, D) of K classes, in their order, on the CPU.

    Only files that have some of them are read, one after the other.

    Raises:
        IndexError: a class is outside [0, C).
        ValueError: one of these files is missing or damaged.
    """
    saved, wanted = files.tensors[WEIGHT], torch.tensor(classes, dtype=torch.int64)
    if outside := [c for c in classes if not 0 <= c < saved.size[0]]:
        raise IndexError(f"class {outside[0]} is not among the {saved.size[0]} of {files.path}")
    centres = torch.empty(len(classes), saved.size[1], dtype=saved.dtype)
    for part in saved.parts:
        places = ((wanted >= part.first) & (wanted < part.first + part.rows)).nonzero()[:, 0]
        if len(places) == 0:
            continue
        files.check_file(part.file)
        here = wanted[places]
        first, last = int(here.min()), int(here.max())
        rows = read_rows(files, range(first, last + 1), [WEIGHT])[WEIGHT]
        centres[places] = rows[here - first]
    return centres


class _Where(NamedTuple):
    """Where a file holds some rows, under the names that torch's reader asks for."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: None = None


class _Reader(FileSystemReader):
    """Torch's reader, with the description of a checkpoint instead of a pickle."""

    def __init__(self, files: ShardFiles) -> None:
        super().__init__(files.folder)
        self.files = files

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """The description in torch's form."""
        tensors, places = {}, {}
        for name, saved in self.files.tensors.items():
            chunks = []
            for part in saved.parts:
                first = Size([part.first, 0])
                chunks.append(ChunkStorageMetadata(first, Size([part.rows, saved.size[1]])))
                places[MetadataIndex(name, first)] = _Where(part.file, part.offset, part.length)
            properties = TensorProperties(dtype=saved.dtype)
            tensors[name] = TensorStorageMetadata(properties, Size(saved.size), chunks)
        return Metadata(tensors, storage_data=places, storage_meta=StorageMeta())


class _LoadRows(DefaultLoadPlanner):
    """A process reads the rows of its classes."""

    def __init__(self, classes: range) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.classes = classes

    def create_local_plan(self) -> plans.LoadPlan:
        """What to read of which file."""
        assert self.metadata is not None
        first = Size([self.classes.start, 0])
        items: list[plans.ReadItem] = []
        for name, rows in self.state_dict.items():
            saved = cast(TensorStorageMetadata, self.metadata.state_dict_metadata[name])
            if len(rows):
                chunk = ChunkStorageMetadata(first, rows.shape)
                items += create_read_items_for_chunk_list(name, saved, [chunk])
        return plans.LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """Where the rows go."""
        return self.state_dict[index.fqn]

    def load_bytes(self, read_item: plans.ReadItem, value: Any) -> None:  # noqa: ARG002
        """Refuse: only tensors are read, and torch would unpickle these bytes."""
        raise ValueError(f"{read_item.dest_index.fqn} is not a tensor")
