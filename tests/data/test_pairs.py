"""Pair lists: LFW's format and plain ones, and every way they can be wrong."""

import numpy as np
import pytest
from face_files import write_image, write_people

from fusedface.data import SyntheticFaces, from_index_pairs, read_pairs, synthetic_pairs

LFW = "2\t1\nann\t1\t3\nann\t1\tbob\t2\nbob\t1\t2\ncyd\t3\tbob\t2\n"
PLAIN = "ann/ann_0001.png ann/ann_0002.png 1 0\nann/ann_0001.png bob/bob_0001.png 0 1\n"


def test_lfw(tmp_path):
    write_people(tmp_path, suffix=".jpg")
    (tmp_path / "pairs.txt").write_text(LFW)
    pairs = read_pairs(tmp_path / "pairs.txt")
    assert len(pairs) == 4
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]
    paths = pairs.images.paths
    names = [(paths[a], paths[b]) for a, b in zip(pairs.first, pairs.second, strict=True)]
    assert names[0] == ("ann/ann_0001.jpg", "ann/ann_0003.jpg")
    assert names[3] == ("cyd/cyd_0003.jpg", "bob/bob_0002.jpg")
    assert len(np.unique(pairs.images.identities)) == 3


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.txt"])
def test_plain(tmp_path, name):
    write_people(tmp_path / "images")
    comma = "," if name.endswith("csv") else " "
    rows = [
        ("path1", "path2", "same", "fold"),
        ("ann/ann_0001.png", "ann/ann_0002.png", "1", "0"),
        ("ann/ann_0001.png", "cyd/cyd_0002.png", "0", "1"),
    ]
    (tmp_path / name).write_text("\n".join(comma.join(row) for row in rows))
    pairs = read_pairs(tmp_path / name, tmp_path / "images")
    assert (pairs.same.tolist(), pairs.fold.tolist()) == ([True, False], [0, 1])
    assert len(pairs.images) == 3
    assert pairs.images.image(int(pairs.second[1])).shape == (112, 112, 3)


def test_names_with_spaces_where_tabs_separate(tmp_path):
    """More than half of the lines hold a tab; where that is not so, any white space separates."""
    for name in ("ann lee", "bob"):
        (tmp_path / name).mkdir()
        for i in (1, 2):
            write_image(tmp_path / name / f"{i}.png")
    lines = ["ann lee/1.png\tann lee/2.png\t1\t0", "bob/1.png\tann lee/1.png\t0\t1"]
    (tmp_path / "pairs.txt").write_text("\n".join([*lines, ""]) + "\n")
    pairs = read_pairs(tmp_path / "pairs.txt")
    assert pairs.images.paths == ["ann lee/1.png", "ann lee/2.png", "bob/1.png"]
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 2], [1, 0])
    (tmp_path / "pairs.txt").write_text("bob/1.png bob/2.png 1 0\nbob/1.png\tx/1.png\t0 1\n")
    with pytest.raises(ValueError, match=r"1 of 3 images are not below .*\n  line 2: x/1\.png"):
        read_pairs(tmp_path / "pairs.txt")


def test_two_lines_a_pair(tmp_path):
    """As CPLFW and CALFW have them: genuine pairs first; their flag may be a fold's number."""
    for name in "abcd":
        write_image(tmp_path / f"{name}.png")
    lines = [f"{x}.png {k % 3 + 1}" for k in range(20) for x in "ab"]
    lines += [f"{x}.png 0" for _ in range(30) for x in "cd"]
    (tmp_path / "pairs_CALFW.txt").write_text("\n".join(lines) + "\n")
    pairs = read_pairs(tmp_path / "pairs_CALFW.txt")
    assert pairs.same.tolist() == [True] * 20 + [False] * 30
    assert pairs.fold.tolist() == [k // 2 for k in range(20)] + [k // 3 for k in range(30)]
    paths = [(pairs.images.paths[a], pairs.images.paths[b]) for a, b in
             zip(pairs.first, pairs.second, strict=True)]  # fmt: skip
    assert paths == [("a.png", "b.png")] * 20 + [("c.png", "d.png")] * 30
    assert pairs.images.identities is None


def test_identities_are_unknown_where_folders_contradict_the_list(tmp_path):
    write_people(tmp_path)
    text = "ann/ann_0001.png bob/bob_0001.png 1 0\nann/ann_0001.png cyd/cyd_0001.png 0 1\n"
    (tmp_path / "pairs.txt").write_text(text)
    assert read_pairs(tmp_path / "pairs.txt").images.identities is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ("2\t1\nann\t1\t3\n", ["promises 2 folds of 1 + 1 pairs, 4 in all, but 1 lines"]),
        ("1\t1\nann\t1\nann\t1\tbob\t2\n", ["pairs.txt:2", "expected 'name i j'"]),
        ("1\t1\nann\t1\tx\nann\t1\tbob\t2\n", ["pairs.txt:2", "'ann 1 x'"]),
        ("1\t1\nann\t1\t9\nann\t1\tbob\t2\n", ["1 of 3 images", "line 2: ann/ann_0009"]),
        ("a.png b.png 1\n", ["pairs.txt:1", "path path same fold"]),
        ("ann/ann_0001.png ann/ann_0002.png 1 0\na b 2 0\n", ["pairs.txt:2"]),
        (
            "ann/ann_0001.png ann/ann_0002.png 2 0\n" + PLAIN,
            ["pairs.txt:1", "got 'ann/ann_0001.png"],
        ),
        ("ann lee/1.png ann/ann_0002.png 0 0\n" + PLAIN, ["pairs.txt:1", "got 'ann lee/1.png"]),
        ("ann lee/1.png ann lee/2.png 1 0\n" + PLAIN, ["pairs.txt:1", "got 'ann lee/1.png"]),
        (f"1\t1\n{'n' * 6000}\t1\t2\nann\t1\tbob\t2\n", ["pairs.txt:2", "too long for a file"]),
        (f"1\t1\n{'n/' * 3000}x\t1\t2\nann\t1\tbob\t2\n", ["pairs.txt:2", "too long for a path"]),
        (f"1\t1\n{'n/../' * 1200}x\t1\t2\nann\t1\tbob\t2\n", ["pairs.txt:2", "too long"]),
        ("../x.png ann/ann_0002.png 1 0\n", ["pairs.txt:1", "leads out"]),
        ("1\t1\n..\t1\t2\nann\t1\tbob\t2\n", ["pairs.txt:2", "leads out"]),
        ("a.png 1\nb.png 1\nc.png 0\n", ["two lines a pair, got 3, an odd number"]),
        ("a.png 1\nb.png 0\n", ["pairs.txt:2", "the flag must be that of line 1, 1, got 0"]),
        ("a.png 1\nb.png x\n", ["pairs.txt:2", "expected 'path flag'", "'b.png x'"]),
        ("a.png 1\n../b.png 1\n", ["pairs.txt:2", "leads out"]),
        ("a\0.png 1\nb.png 1\n", ["pairs.txt:1", "is not a path"]),
        (f"1\t{'9' * 5000}\nann\t1\t2\n", ["pairs.txt:1"]),
        (f"ann/ann_0001.png ann/ann_0002.png 1 {'9' * 30}\n", ["pairs.txt:1", "fold 0, 1, ..."]),
        ("ann/ann_0001.png ann/ann_0002.png 1 \u00b2\n", ["pairs.txt:1", "fold 0, 1, ..."]),
        ("ann/ann_0001.png ann/ann_0002.png 1 0\n", ["all 1 pairs are of same people"]),
    ],
)
def test_bad_lists_are_refused(tmp_path, text, words):
    write_people(tmp_path)
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match="pairs") as error:
        read_pairs(tmp_path / "pairs.txt")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert len(str(error.value)) < 4000


def test_a_csv_that_is_none_is_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("x" * 200_000 + ",b,1,0\n")
    with pytest.raises(ValueError, match=r"pairs\.csv cannot be read as CSV: field larger"):
        read_pairs(tmp_path / "pairs.csv")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*nowhere\.txt"):
        read_pairs(tmp_path / "nowhere.txt")
    (tmp_path / "pairs.txt").write_text(LFW)
    with pytest.raises(ValueError, match="does not exist"):
        read_pairs(tmp_path / "pairs.txt", tmp_path / "gone")


def test_real_pair_lists_agree(real_data):
    folder = real_data / "orl_aligned"
    lfw = read_pairs(real_data / "orl_aligned_pairs.txt", folder)
    plain = read_pairs(real_data / "orl_aligned_pairs.csv", folder)
    assert len(lfw) == len(plain) == 3000
    assert lfw.images.paths == plain.images.paths
    for name in ("first", "second", "same", "fold"):
        assert np.array_equal(getattr(lfw, name), getattr(plain, name))
    assert len(np.unique(lfw.images.identities)) == 40


def test_synthetic_pairs():
    source = SyntheticFaces(40, 5)
    chosen = synthetic_pairs(source, 400, within_family=0.5)
    pairs = from_index_pairs(source, *chosen)
    true = source.identities
    assert (chosen.same == (true[chosen.first] == true[chosen.second])).all()
    assert (chosen.first != chosen.second).all()
    for f in range(10):
        assert chosen.same[chosen.fold == f].mean() == 0.5
    alike = [
        source.family(a) == source.family(b) for a, b, s in zip(*chosen[:3], strict=True) if not s
    ]
    assert 0.45 < np.mean(alike) < 0.65
    assert np.array_equal(pairs.images.identities[pairs.first], true[chosen.first])
    with pytest.raises(ValueError, match="at least 2 images"):
        synthetic_pairs(SyntheticFaces(40, 1), 100)
