"""Write the lists of photos and pairs of docs/finetune.md; the same lists every time.

    python docs/comparisons/finetune/lists.py FACES

FACES holds the folders glint24_train, orl_aligned and lfw_aligned, each with a folder per person, and:

    orl_aligned_pairs.csv        path1,path2,same,fold, relative to orl_aligned
    lfw_pairs.txt                LFW's official 6,000 pairs (its View 2)
    lfw_train_sets_1_8.txt       "path label" of the people of LFW's people.txt, sets 1 to 8, who have two
                                 photos or more, relative to FACES
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusedface.data import FaceSource, PairList, open_source
from fusedface.data.drawn_pairs import sample_pairs
from fusedface.data.pairs import read_pairs
from fusedface.data.sources import SomeIdentities


def main(faces: Path) -> None:
    """Write the lists into `faces`."""
    glint = open_source(faces / "glint24_train")
    people = np.random.default_rng(0).permutation(glint.num_classes).tolist()
    kept_back, chosen_on, trained_on = people[:5], people[5:10], people[10:]
    write_people(faces / "glint_18.txt", glint, chosen_on + trained_on)
    write_people(faces / "glint_13.txt", glint, trained_on)
    write_people(faces / "glint_23.txt", glint, people)
    write_pairs(faces / "glint_heldout.csv", draw(glint, kept_back, 3000))
    write_pairs(faces / "glint_val.csv", draw(glint, chosen_on, 3000))
    shutil.copy(faces / "lfw_train_sets_1_8.txt", faces / "lfw_1_8.txt")
    lfw = open_source(faces / "lfw_1_8.txt")
    some = np.random.default_rng(0).permutation(lfw.num_classes)[:150].tolist()
    write_pairs(faces / "lfw_val.csv", draw(lfw, some, 2000))
    official = read_pairs(faces / "lfw_pairs.txt", faces / "lfw_aligned")
    write_pairs(faces / "lfw.csv", official)
    write_pairs(faces / "lfw_9_10.csv", official, folds=(8, 9))
    orl = read_pairs(faces / "orl_aligned_pairs.csv", faces / "orl_aligned")
    write_pairs(faces / "orl.csv", orl)


def draw(source: FaceSource, people: Sequence[int], count: int) -> PairList:
    """Pairs of some people of a source, half of them genuine."""
    return sample_pairs(SomeIdentities(source, sorted(people)), count)


def write_people(path: Path, source: FaceSource, people: Sequence[int]) -> None:
    """A line "path label" for each photo of some people."""
    lines = [
        f"{Path(source.describe(i)).relative_to(path.parent)} {source.class_names[label]}"
        for i, label in enumerate(source.labels)
        if label in set(people)
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def write_pairs(path: Path, pairs: PairList, folds: Sequence[int] | None = None) -> None:
    """The pairs of all folds, or of some."""
    names = [
        str(Path(pairs.images.describe(i)).relative_to(path.parent))
        for i in range(len(pairs.images))
    ]
    lines = ["path1,path2,same,fold"]
    for one, other, same, fold in zip(
        pairs.first, pairs.second, pairs.same, pairs.fold, strict=True
    ):
        if folds is None or fold in folds:
            lines.append(f"{names[one]},{names[other]},{int(same)},{fold}")
    path.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
