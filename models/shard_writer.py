"""Write class centres in one file per process, by `torch.distributed.checkpoint`.

Torch describes such files in a pickle of its own, `.metadata`, and unpickles it when it reads them, which
could run code. Here the description is in the checkpoint, as plain values (`models/shard_files.py`), and
no file holds more than tensors, which are read with `weights_only`.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch.distributed as dist
from torch import Size, Tensor
from torch.distributed.checkpoint import planner as plans
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from fusedface.models.shard_files import Part, digest_of

if TYPE_CHECKING:
    from fusedface.models.class_shard import ClassShard


def write_rows(
    rows: dict[str, Tensor], shard: "ClassShard", folder: Path, group: dist.ProcessGroup
) -> dict[str, Any] | None:
    """Write the rows of all ranks to `folder`, each rank's to a file of its own; every rank calls it.

    Args:
        rows: tensors of this rank (len(shard.classes), D) by name, such as "weight".
        shard: the classes of these rows.
        folder: empty, on a file system that all ranks share.
        group: the ranks of the shard, for messages on the CPU.

    Returns:
        The entry SHARDS of the checkpoint on rank 0, None on the others.

    Raises:
        OSError: a rank could not write; raised on every rank, and the message names it.
    """
    writer = _Writer(folder, shard)
    try:
        save(rows, storage_writer=writer, planner=_SaveRows(shard), process_group=group)
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
        why = str(cause) or type(cause).__name__
        raise OSError(f"rank {rank} could not write its class centres: {why}") from cause
    return writer.described


class _Written(NamedTuple):
    """What a rank tells rank 0 of rows that it has written."""

    part: Part
    sha256: str


class _Writer(FileSystemWriter):
    """Torch's writer, with a description in plain values instead of a pickle.

    Attributes:
        described: the entry SHARDS, on rank 0 and after the end.
    """

    def __init__(self, folder: Path, shard: "ClassShard") -> None:
        super().__init__(folder)
        self.folder, self.shard = folder, shard
        self.described: dict[str, Any] | None = None

    def write_data(
        self, plan: plans.SavePlan, planner: plans.SavePlanner
    ) -> Future[list[WriteResult]]:
        """Write the rows of this rank, and take the digest of its file."""
        results = super().write_data(plan, planner).wait()
        digests = {
            name: digest_of(self.folder / name)
            for name in {result.storage_data.relative_path for result in results}
        }
        future: Future[list[WriteResult]] = Future()
        future.set_result(
            [replace(r, storage_data=self._written(r.storage_data, digests)) for r in results]
        )
        return future

    def _written(self, where: Any, digests: dict[str, str]) -> _Written:
        classes, name = self.shard.classes, where.relative_path
        part = Part(classes.start, len(classes), name, where.offset, where.length)
        return _Written(part, digests[name])

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Describe what all ranks have written; on rank 0."""
        tensors: dict[str, Any] = {}
        for name, saved in metadata.state_dict_metadata.items():
            saved = cast(TensorStorageMetadata, saved)
            dtype = str(saved.properties.dtype).removeprefix("torch.")
            tensors[name] = {"dtype": dtype, "size": list(saved.size), "parts": []}
        files: dict[str, str] = {}
        for result in (result for of_rank in results for result in of_rank):
            part, digest = result.storage_data
            tensors[result.index.fqn]["parts"].append(list(part))
            files[part.file] = digest
        self.described = {"folder": self.folder.name, "files": files, "tensors": tensors}


class _SaveRows(DefaultSavePlanner):
    """Each rank writes its rows of every tensor."""

    def __init__(self, shard: "ClassShard") -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.shard = shard

    def create_local_plan(self) -> plans.SavePlan:
        """The rows of this rank."""
        self.plan = plans.SavePlan(
            [self._item(name, rows) for name, rows in self.state_dict.items() if len(rows)]
        )
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """The rows to write."""
        return self.state_dict[index.fqn]

    def _item(self, name: str, rows: Tensor) -> plans.WriteItem:
        first = Size([self.shard.classes.start, 0])
        whole = Size([self.shard.num_classes, rows.shape[1]])
        chunk = ChunkStorageMetadata(first, rows.shape)
        data = plans.TensorWriteData(chunk, TensorProperties(dtype=rows.dtype), whole)
        return plans.WriteItem(
            MetadataIndex(name, first), plans.WriteItemType.SHARD, tensor_data=data
        )
