"""HeadOptions: one list of options, whose choices are those of their annotations."""

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
import torch
from margin_oracle import inputs

from fusedface.kernels import ArcFace, CurricularFace, HeadOptions, margin_loss
from fusedface.kernels.options import PRECISIONS, BackendName, Precision, head_options
from fusedface.models import MarginHead
from fusedface.recipes.configuration.recipe import Recipe

CHOICES = {
    name: get_args(hint) for name, hint in get_type_hints(HeadOptions).items()
    if all(isinstance(choice, str) for choice in get_args(hint)) and get_args(hint)
}  # fmt: skip


def test_a_kept_record_is_found_only_for_values_of_its_types():
    """1 equals True, but `sample_correction` must be True or False."""
    assert head_options(ArcFace(), {"sample_correction": True}).sample_correction is True
    with pytest.raises(TypeError, match="sample_correction must be True or False, got 1"):
        head_options(ArcFace(), {"sample_correction": 1})


def test_every_choice_of_an_annotation_is_taken_and_no_other():
    assert set(CHOICES) == {"target_gradient", "reduction", "backend", "precision"}
    assert CHOICES["backend"] == get_args(BackendName)
    assert ("auto", *PRECISIONS) == get_args(Precision)
    for name, choices in CHOICES.items():
        for choice in choices:
            assert getattr(HeadOptions(**{name: choice}), name) == choice
        with pytest.raises(
            ValueError, match=rf"{name} must be one of {', '.join(choices)}, got 'no'"
        ):
            HeadOptions(**{name: "no"})


def test_one_record_for_the_function_the_head_and_a_recipe():
    options = HeadOptions(margin=ArcFace(m=0.3), focal_gamma=1.5, backend="reference")
    embeddings, weight, labels = inputs(8, 30, 16)
    head = MarginHead(16, 30, Recipe(name="a", summary="b", head=options).head)
    assert head.options == options
    with torch.no_grad():
        head.weight.copy_(weight)
    expected = margin_loss(
        embeddings, weight, labels, ArcFace(m=0.3), focal_gamma=1.5, backend="reference"
    )
    assert torch.equal(head(embeddings, labels).loss, expected.loss)
    assert torch.equal(margin_loss(embeddings, weight, labels, options).loss, expected.loss)
    changed = margin_loss(embeddings, weight, labels, options, reduction="sum")
    torch.testing.assert_close(changed.loss, 8 * expected.loss)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"bakend": "chunked"}, TypeError, ["bakend"]),
        ({"ignore_index": "none"}, TypeError, ["ignore_index", "an integer", "'none'"]),
        ({"ignore_index": 2**63}, ValueError, ["ignore_index", "64 bits"]),
        ({"margin": CurricularFace}, TypeError, ["margin must be", "CurricularFace"]),
    ],
)
def test_mistakes_are_named(options, kind, words):
    with pytest.raises(kind) as error:
        HeadOptions(**options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_recipe_cannot_train_without_a_reduction():
    with pytest.raises(ValueError, match=r"head\.reduction"):
        Recipe(name="a", summary="b", head=HeadOptions(reduction="none"))


def test_the_record_has_no_field_that_a_recipe_lacks():
    assert {"margin", "weighting", "focal_gamma"} < {field.name for field in fields(HeadOptions)}
