"""Read the weights of a margin head, from a run of this project or from a published head.

this project     "head" of a checkpoint, or a head's state_dict    weight (C, D), state 0-d
                 with several processes, files next to it          weight
CurricularFace   a state_dict, or "HEAD" of its training files     kernel (D, C), t (1,)
insightface      Partial FC's state_dict, or a checkpoint_gpu_N    weight (C, D)
bubbliiiing      with the backbone's tensors                       head.weight (C, D)
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from fusedface.models.archives import read_archive
from fusedface.models.contents import is_whole
from fusedface.models.head import MarginHead
from fusedface.models.layouts import LAYOUTS
from fusedface.models.shard_files import ShardFiles

WRAPPERS = ("head", "HEAD", "state_dict_softmax_fc_module")
CENTRES, TRANSPOSED = "weight", "kernel"


def read_head(path: str | Path) -> dict[str, Tensor]:
    """The class centres `weight` (C, D) of a file, and its state, 0-d, under our names.

    Args:
        path: a checkpoint or state_dict of a kind in this module's table, `.pt` or `.safetensors`.

    Raises:
        ValueError: the file does not exist, is damaged, or holds no head.
    """
    archive = read_archive(path)
    values = _head_of(archive)
    if (files := ShardFiles.of(Path(path), archive)) is not None:
        from fusedface.models.shard_reader import all_centres  # two seconds to import

        values = values | {CENTRES: all_centres(files)}
    names = [key for key in (CENTRES, TRANSPOSED) if key in values]
    if len(names) != 1:
        shown = ", ".join(sorted(map(str, archive))[:8])
        raise ValueError(
            f"{path} must hold the class centres of one head, as {CENTRES!r} (C, D) or {TRANSPOSED!r} "
            f"(D, C); its keys are: {shown}"
        )
    centres = _checked(values[names[0]], names[0], path)
    if centres.ndim != 2 or 0 in centres.shape:
        raise ValueError(f"{path}: {names[0]!r} must be a matrix, got {tuple(centres.shape)}")
    centres = centres.T.contiguous() if names[0] == TRANSPOSED else centres
    state = {key: _number(v, key, path) for key, v in values.items() if key != names[0]}
    return {CENTRES: centres} | state


def _number(value: Any, key: str, path: str | Path) -> Tensor:
    """A value of a head's state, 0-d."""
    number = _checked(value, key, path)
    if number.numel() != 1:
        raise ValueError(
            f"{path}: {key!r} must be one number, a head's state, got {tuple(number.shape)}"
        )
    return number.reshape(())


def load_head(head: MarginHead, path: str | Path) -> None:
    """Fill a head from a file that `read_head` takes; state that the file lacks stays unchanged.

    Raises:
        ValueError: as `read_head`, or the file has another number of classes or dimensions, or another
            margin; nothing was loaded.
    """
    state = read_head(path)
    found, wanted = tuple(state[CENTRES].shape), (head.num_classes, head.embedding_dim)
    if found != wanted:
        raise ValueError(
            f"{path} holds the centres of {found[0]} classes in {found[1]} dimensions, the head has "
            f"{wanted[0]} in {wanted[1]}"
        )
    expected = head.state_dict()
    foreign = sorted(set(state) - set(expected))
    if foreign:
        raise ValueError(
            f"{path} carries the state {', '.join(foreign)}, which the head's margin "
            f"{head.margin.name!r} has not"
        )
    head.load_state_dict(expected | state)


def _head_of(archive: dict[Any, Any]) -> dict[str, Any]:
    """The entries of a file that belong to its head."""
    for layout in LAYOUTS:
        if layout.head is not None and layout.marker in archive and layout.head in archive:
            return {CENTRES: archive[layout.head]}
    for wrapper in WRAPPERS:
        if isinstance(archive.get(wrapper), dict):
            return archive[wrapper]
    return archive


def _checked(value: object, name: object, path: str | Path) -> Tensor:
    """A dense tensor of finite floating-point numbers."""
    if (
        isinstance(value, Tensor)
        and is_whole(value)
        and value.is_floating_point()
        and bool(value.isfinite().all())
    ):
        return value
    raise ValueError(
        f"{path}: {str(name)[:80]!r} must be a tensor of finite floating-point numbers"
    )
