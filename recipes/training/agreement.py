"""Checks that all processes of a run have the same recipe and images, before anything is written."""

from collections.abc import Sequence
from typing import Any

import torch

from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import changed_settings
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.run_directory.environment import installed_version


def check_same_recipe(recipe: Recipe, processes: Processes) -> None:
    """Raise ValueError, on every rank, unless all have the same recipe and the same program."""
    mine = (recipe, {"FusedFace": installed_version("fusedface"), "torch": torch.__version__})
    (first, versions), *others = processes.gather(mine)
    for rank, (other, found) in enumerate(others, start=1):
        differences = list(changed_settings(other, first).values())
        differences += [
            f"{name}: {found[name]} instead of {version}"
            for name, version in versions.items()
            if found[name] != version
        ]
        if differences:
            listed = "\n  ".join(differences)
            raise ValueError(f"rank {rank} was given another recipe than rank 0:\n  {listed}")


def check_same_precision(name: str, processes: Processes) -> None:
    """Raise ValueError, on every rank, unless all have the same precision, which may depend on a device."""
    found = processes.gather(name)
    for rank, other in enumerate(found):
        if other != found[0]:
            raise ValueError(
                f"the precision is {found[0]} on rank 0 and {other} on rank {rank}, whose devices differ: "
                "set train.precision"
            )


def check_same_runs(recipes: Sequence[Recipe], processes: Processes) -> None:
    """Raise ValueError, on every rank, unless all have the same recipes for a comparison."""
    counts = processes.gather(len(recipes))
    for rank, count in enumerate(counts):
        if count != counts[0]:
            raise ValueError(
                f"rank {rank} was given a comparison of {count} runs, rank 0 one of {counts[0]}"
            )
    for recipe in recipes:
        check_same_recipe(recipe, processes)


def check_same_faces(images: dict[str, Any], processes: Processes) -> None:
    """Raise ValueError, on every rank, unless all read the same training images.

    Args:
        images: their `fusedface.data.fingerprint`.
        processes: the processes that read them.
    """
    found = processes.gather(images)
    for rank, other in enumerate(found):
        # Copies on several machines differ in the times of their files.
        names = {"num_images", "num_identities", "digest"}
        names |= {"files"} if other.get("by") == found[0].get("by") == "content" else set()
        if any(other[name] != found[0][name] for name in names):
            here, there = (
                f"{data['num_images']:,} images of {data['num_identities']:,} people on rank {number}"
                for number, data in ((0, found[0]), (rank, other))
            )
            what = "" if here.split(" on ")[0] != there.split(" on ")[0] else ", but other ones"
            raise ValueError(
                f"every rank must read the same training images, data.source has {here} and {there}{what}"
            )
