"""A checkpoint that training starts from: its weights where they fit, and its class centres by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from fusedface.models.archives import read_archive
from fusedface.models.backbone import Backbone
from fusedface.models.checkpoints import interpret
from fusedface.models.contents import Contents, is_whole, listed, match
from fusedface.models.preprocessing import Preprocessing
from fusedface.models.shard_files import SHARDS, ShardFiles

SMALLEST_SHARE = 0.5
"""The least share of a backbone's tensors that must fit; with fewer it is another network."""


@dataclass(frozen=True)
class Classes:
    """The people that a checkpoint was trained on.

    Attributes:
        names: one name for each class.
        centres: (C, D) float; or the files that have them.
        data: the group "data" of its recipe; empty if the file does not have it.
    """

    names: tuple[str, ...]
    centres: Tensor | ShardFiles
    data: dict[str, Any]

    @property
    def dim(self) -> int:
        """D of the class centres."""
        if isinstance(self.centres, ShardFiles):
            return self.centres.tensors["weight"].size[1]
        return self.centres.shape[1]

    def centres_of(self, which: Sequence[int]) -> Tensor:
        """The class centres (K, D) of K of the classes, on the CPU; of files, no others are read.

        Raises:
            ValueError: files that have some of them are missing or damaged.
        """
        if not isinstance(self.centres, ShardFiles):
            return self.centres[list(which)]
        from fusedface.models.shard_reader import some_centres  # two seconds to import

        centres = some_centres(self.centres, which)
        if not centres.isfinite().all():
            raise ValueError(f"{self.centres.path}: head.weight must have finite class centres")
        return centres


class StartingPoint:
    """A checkpoint that was read, of any layout that `load_checkpoint` takes.

    Attributes:
        path: the file.
        config: `create(**config)` builds its backbone; None for a bare state_dict.
        preprocessing: of its training images; None for a bare state_dict.

    Args:
        path: the file.

    Raises:
        ValueError: as `build_from_checkpoint`; or its class centres are damaged.
    """

    def __init__(self, path: str | Path) -> None:
        archive = read_archive(path)
        self._archive = archive
        self._contents: Contents = interpret(archive, path)
        self.path = Path(path)
        self.config: dict[str, Any] | None = self._contents.config
        self.preprocessing: Preprocessing | None = self._contents.preprocessing
        if SHARDS not in archive:
            _ = self.classes  # checked now
            self._archive = {}  # it also has the optimiser's state

    @cached_property
    def classes(self) -> Classes | None:
        """The people it was trained on; None if the file does not say.

        Class centres in files next to the checkpoint are not read here.

        Raises:
            ValueError: what the file says of them is damaged.
        """
        return _classes(self._archive, self.path)

    def load(self, model: Backbone) -> list[str]:
        """Copy every tensor that fits into a backbone; the backbone's other tensors stay as they are.

        Returns:
            A line on each kind of tensors that were not copied; empty if all were.

        Raises:
            ValueError: fewer than half of the backbone's tensors fit, or some are not finite; nothing
                was loaded.
        """
        expected = model.state_dict()
        state, differences = match(expected, self._contents)
        lines = [f"{len(k)} {kind}: {listed(k)}" for kind, k in differences.items()]
        if len(state) < SMALLEST_SHARE * len(expected):
            told = "\n  ".join(lines)
            raise ValueError(
                f"{self.path} has {len(state)} of the {len(expected)} tensors of the backbone "
                f"{model.config}, less than half: it is of another network\n  {told}"
            )
        broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
        if broken:
            raise ValueError(f"{self.path}: these tensors are not finite: {listed(broken)}")
        model.load_state_dict(state, strict=False)
        return lines


def _classes(archive: dict[Any, Any], path: str | Path) -> Classes | None:
    """The people of a file, checked; None if it does not name them."""
    if "classes" not in archive:
        return None
    names, head = archive["classes"], archive.get("head")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: key 'classes' must be a list of names")
    centres: Any = ShardFiles.of(Path(path), archive)
    if isinstance(centres, ShardFiles):
        fits = centres.tensors["weight"].size[0] == len(names)
    else:
        centres = head.get("weight") if isinstance(head, dict) else None
        fits = (
            isinstance(centres, Tensor)
            and is_whole(centres)
            and centres.is_floating_point()
            and centres.ndim == 2
            and len(centres) == len(names)
            and bool(centres.isfinite().all())
        )
    if not fits:
        raise ValueError(
            f"{path}: head.weight must be the finite class centres of the {len(names)} people in 'classes'"
        )
    recipe = archive.get("recipe")
    data = recipe.get("data") if isinstance(recipe, dict) else None
    return Classes(tuple(names), centres, data if isinstance(data, dict) else {})
