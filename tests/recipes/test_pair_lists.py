"""Pair lists of a command line: each has a name of its own, and folds."""

from dataclasses import replace

import pytest
from face_files import write_people
from tiny_run import faces_of, tiny_recipe

from fusedface.recipes.evaluation.pair_lists import read_lists
from fusedface.recipes.export.source import checking_pairs


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Three people, LFW's list of two folds in two folders, and its list of one fold."""
    root = write_people(tmp_path_factory.mktemp("people"))
    fold = "ann\t1\t2\nann\t1\tbob\t1\n"
    for folder in ("lfw", "other"):
        (root / folder).mkdir()
        (root / folder / "pairs.txt").write_text(f"2\t1\n{fold}{fold}")
    (root / "pairsDevTest.txt").write_text(f"1\n{fold}")
    return root


def test_lists_of_one_name(people):
    """An export took the last of them, and its thresholds for all."""
    lists = [people / "lfw" / "pairs.txt", people / "other" / "pairs.txt"]
    assert set(read_lists(lists[:1], people)) == {"pairs"}
    for read in (read_lists, lambda *given: checking_pairs(*given, (112, 112))):
        with pytest.raises(ValueError, match="'pairs' is given twice, rename one"):
            read(lists, people)


def test_a_list_of_one_fold_is_refused_by_name(people):
    path = people / "pairsDevTest.txt"
    message = r"pairsDevTest\.txt: all 2 pairs are in one fold"
    with pytest.raises(ValueError, match=message):
        read_lists([path], people)
    recipe = tiny_recipe(people)
    evaluation = replace(recipe.evaluation, pairs=(str(path),), root=str(people))
    with pytest.raises(ValueError, match=message):
        faces_of(replace(recipe, evaluation=evaluation))
