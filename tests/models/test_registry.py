"""create: names and options, and what is said of wrong ones."""

import pytest

from fusedface.models import MODELS, create


def test_names():
    assert list(MODELS) == [
        "mobilefacenet",
        "mobilefacenet_relu",
        "mbf",
        "mbf_large",
        "iresnet18",
        "ghostfacenet_v1_s1",
        "ghostfacenet_v1_s2",
        "edgeface_xs",
        "edgeface_s",
    ]
    for name, model in MODELS.items():
        assert type(create(name, input_size=(32, 32))) is model


def test_defaults_are_the_published_dimensions():
    dims = {name: create(name, input_size=(32, 32)).embedding_dim for name in MODELS}
    assert dims == dict.fromkeys(MODELS, 512) | {"mobilefacenet": 128}


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("mobilfacenet", "mobilefacenet"),
        ("MobileFaceNet", "mobilefacenet"),
        ("iresnet-18", "iresnet18"),
    ],
)
def test_unknown_name_names_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=f"'{wrong}'; did you mean '{nearest}'"):
        create(wrong)


def test_unknown_name_like_none_lists_all():
    with pytest.raises(ValueError, match="It is one of: mobilefacenet, mobilefacenet_relu, mbf, "):
        create("vit")


def test_unknown_option_names_the_nearest():
    with pytest.raises(ValueError, match="'embeding_dim'; did you mean 'embedding_dim'"):
        create("mobilefacenet", embeding_dim=128)
    with pytest.raises(ValueError, match="'mbf' has no option 'activation'"):
        create("mbf", activation="relu6")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("embedding_dim", 0),
        ("embedding_dim", -128),
        ("embedding_dim", 128.0),
        ("embedding_dim", True),
        ("width", 0),
        ("width", -1.0),
        ("width", 5),
        ("width", float("nan")),
        ("width", "1"),
        ("input_size", (112, 100)),
        ("input_size", (0, 112)),
        ("input_size", (112,)),
        ("input_size", 112),
        ("input_size", (112.0, 112.0)),
    ],
    ids=str,
)
def test_bad_sizes_are_refused_with_the_value(name, option, value):
    with pytest.raises(ValueError, match=option) as caught:
        create(name, **{option: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("option", ["activation", "stem_activation"])
def test_bad_activation_is_refused(option):
    with pytest.raises(ValueError, match=rf"^{option} must be one of .*'relu6'\), got 'gelu'"):
        create("mobilefacenet", **{option: "gelu"})
