"""Which faces a run learns from, and which it is verified on."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tiny_run import NUM_IDENTITIES, NUM_IMAGES, faces_of, tiny_recipe

from fusedface.data import SomeIdentities, open_source
from fusedface.recipes.configuration.own_files import with_data
from fusedface.recipes.configuration.settings import override
from fusedface.recipes.run import run_recipe

pytestmark = pytest.mark.usefixtures("short_networks")


def many_people(folder, count):
    rng = np.random.default_rng(1)
    for identity in range(count):
        (folder / f"p{identity:03d}").mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"p{identity:03d}" / f"{number}.png")
    return folder


def test_people_are_held_out_where_there_are_enough(tmp_path):
    source = many_people(tmp_path / "many", 60)
    recipe = with_data(tiny_recipe(tmp_path), source, [], None)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, pairs=(), num_pairs=40))
    with pytest.raises(
        ValueError, match=r"240 of 240 images are not 32x32 \(8x8: 240\).*data\.resize"
    ):
        faces_of(recipe)
    recipe = override(recipe, ["data.resize=true"])
    notes = []
    faces = faces_of(recipe, notes.append)
    assert faces.train.num_classes == 54
    assert len(faces.train) == 54 * 4
    pairs = faces.tests["held-out"]
    assert (pairs.same.sum(), len(pairs)) == (20, 40)
    tested = {pairs.images.source.describe(int(i)) for i in pairs.images.indices}
    trained = {faces.train.describe(i) for i in range(len(faces.train))}
    people = [{path.split("/")[-2] for path in paths} for paths in (tested, trained)]
    assert len(people[0]) == 6
    assert people[0].isdisjoint(people[1])
    assert any("6 of 60 people are kept back" in note for note in notes)
    assert any("240 of 240 images are not 32x32 (8x8: 240); they are scaled" in n for n in notes)
    assert faces.overlap == {"held-out": "none of its people is trained on"}


def test_too_few_people_are_all_trained_on(faces):
    recipe = tiny_recipe(faces)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, pairs=()))
    notes = []
    opened = faces_of(recipe, notes.append)
    assert opened.tests == {}
    assert opened.train.num_classes == NUM_IDENTITIES
    assert any("too few" in note for note in notes)


def test_verification_on_people_that_are_trained_on_is_told(faces, tmp_path):
    """Of three people in the list one is trained on, with the very photos."""
    notes = []
    strangers = faces_of(tiny_recipe(faces), notes.append).overlap
    none = "no name and no image of it is among the training people and images"
    assert strangers == {"pairs": none}
    assert any(note.endswith(f"images; {none}") for note in notes)
    lines = ["test/person07/0.png,test/person07/1.png,1,0"] * 2
    lines += ["test/person06/0.png,train/person02/3.png,0,1"] * 2
    (tmp_path / "mixed.csv").write_text("\n".join(lines))
    recipe = with_data(tiny_recipe(faces), faces / "train", [tmp_path / "mixed.csv"], faces)
    told = faces_of(recipe, notes.append).overlap["mixed"]
    assert told == (
        "1 of its 3 people have the names of training people (person02); "
        "1 of its 4 images are training images"
    )
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    summary = run_recipe(
        override(recipe, ["schedule.steps=3"]), tmp_path / "run", device="cpu", console=console
    )
    assert summary.overlap == {"mixed": told}
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["overlap"] == {"mixed": told}
    assert f"mixed: {told}" in stream.getvalue()
    assert "not trained on" not in stream.getvalue()


def test_some_identities_are_numbered_anew(faces):
    source = open_source(faces / "train")
    some = SomeIdentities(source, [1, 4])
    assert some.class_names == ["person01", "person04"]
    assert some.labels.tolist() == [0] * NUM_IMAGES + [1] * NUM_IMAGES
    assert np.array_equal(some.image(NUM_IMAGES), source.image(4 * NUM_IMAGES))
    assert some.describe(0) == source.describe(NUM_IMAGES)


def test_generated_people_of_the_evaluation_are_strangers(tmp_path):
    settings = [
        "data.source=synthetic", "data.synthetic.num_identities=10", "evaluation.num_identities=20",
        "data.synthetic.images_per_identity=4", "evaluation.images_per_identity=4",
        "evaluation.num_pairs=40",
    ]  # fmt: skip
    recipe = tiny_recipe(tmp_path)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, pairs=()))
    recipe = override(recipe, settings)
    faces = faces_of(recipe)
    people = set(faces.tests["synthetic"].images.source.class_names)
    assert people == {f"identity {number}" for number in range(10, 30)}
    assert set(faces.train.class_names) == {f"identity {number}" for number in range(10)}
    summary = run_recipe(recipe, tmp_path / "run", device="cpu", console=Console(quiet=True))
    assert summary.finished
    assert set(summary.verification) == {"synthetic"}


def test_generated_faces_have_the_size_before_the_crop(tmp_path):
    """A network of 32x16 cuts them out of 32x32; faces of 32x16 would be stretched first."""
    settings = [
        "data.source=synthetic", "data.synthetic.num_identities=4", "backbone.crop=center",
        "backbone.input_size=[32,16]", "evaluation.num_identities=20", "evaluation.num_pairs=40",
    ]  # fmt: skip
    recipe = tiny_recipe(tmp_path)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, pairs=()))
    faces = faces_of(override(recipe, settings))
    for images in (faces.train, faces.tests["synthetic"].images):
        assert images.image(0).shape == (32, 32, 3)
