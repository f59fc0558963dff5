"""A batch in parts: its gradients are those of the batch at once, and the head sees it once."""

import copy

import pytest
import torch
from rich.console import Console
from tiny_run import checkpoint_at, tiny_recipe, write_faces
from torch import nn

from fusedface.data import FaceBatch
from fusedface.kernels import AdaFace, CurricularFace
from fusedface.models import Backbone, MarginHead
from fusedface.recipes.configuration.recipe import Optim
from fusedface.recipes.configuration.settings import override
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training.passes import Passes
from fusedface.recipes.training.precision import Precision

pytestmark = pytest.mark.usefixtures("short_networks")

CPU, ROWS, CLASSES, DIM, SIZE = torch.device("cpu"), 8, 7, 6, 16


class Net(Backbone):
    """A backbone with batch normalisation and dropout where they are asked for; in float64."""

    name = "net"

    def __init__(self, *more):
        super().__init__(DIM, (SIZE, SIZE), 1.0)
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), *more, nn.Tanh(), nn.Flatten())
        self.embedding = nn.Linear(5 * 16, DIM)
        self.sizes = []
        self.double()

    def features(self, images):
        self.sizes.append((len(images), torch.is_grad_enabled()))
        return self.layers(images.double())


def batch():
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (ROWS, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    return FaceBatch(images, labels, (), torch.arange(ROWS) % 2 == 0)


def parts_of(margin, *more):
    torch.manual_seed(0)
    return Net(*more), MarginHead(DIM, CLASSES, margin).double()


def pass_of(model, head, num_parts):
    return Passes(
        model, head, torch.amp.GradScaler("cpu", enabled=False),
        precision=Precision(CPU, torch.float32), channels_last=True, processes=Processes(),
        distiller=None, num_parts=num_parts,
    )  # fmt: skip


def pass_through(model, head, num_parts):
    """Gradients by the trainer's own code; returns the loss."""
    return pass_of(model, head, num_parts)(batch(), is_frozen=False).out.loss.item()


def same_gradients(ours, theirs):
    for module, other in zip(ours, theirs, strict=True):
        for (name, one), two in zip(module.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-11, atol=1e-15, msg=name)
        for (name, one), two in zip(module.named_buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=0, msg=name)


@pytest.mark.parametrize("num_parts", [2, 4, 8])
@pytest.mark.parametrize("margin", [CurricularFace(s=16.0), AdaFace(s=16.0)], ids=["t", "averages"])
@pytest.mark.parametrize("layer", [None, nn.BatchNorm2d(5)], ids=["no norm", "frozen norm"])
def test_gradients_are_those_of_the_whole_batch(margin, layer, num_parts):
    more = () if layer is None else (layer.eval(),)
    whole = parts_of(margin, *copy.deepcopy(more))
    loss = pass_through(*whole, num_parts=1)
    in_parts = parts_of(margin, *copy.deepcopy(more))
    assert pass_through(*in_parts, num_parts) == pytest.approx(loss, rel=1e-12)
    same_gradients(in_parts, whole)
    of_graphs = {size for size, has_graph in in_parts[0].sizes if has_graph}
    assert of_graphs == {ROWS // num_parts}
    assert in_parts[1].state.keys() <= {"t", "norm_mean", "norm_std"}
    assert all(value != 0.0 for value in in_parts[1].state.values())


def test_normalisation_and_dropout_of_each_part_count_once():
    """Against the graphs of all parts at once: gradients, running statistics, state of the generator."""
    more = (nn.BatchNorm2d(5), nn.Dropout(0.5))
    in_parts = parts_of(CurricularFace(s=16.0), *copy.deepcopy(more))
    torch.manual_seed(1)
    pass_through(*in_parts, num_parts=4)
    next_number = torch.rand(1)
    model, head = parts_of(CurricularFace(s=16.0), *copy.deepcopy(more))
    torch.manual_seed(1)
    given = batch()
    inputs = model.preprocessing.images_to_tensor(given.seen())
    embeddings = torch.cat([model(part) for part in inputs.chunk(4)])
    head(embeddings, given.labels).loss.backward()
    assert torch.equal(torch.rand(1), next_number)
    same_gradients(in_parts, (model, head))
    assert in_parts[0].layers[1].num_batches_tracked == 4


def test_all_parts_are_searched_for_what_is_not_finite():
    """Another process may find nothing, and go on to the next part, which needs all processes."""
    model, head = parts_of(CurricularFace(s=16.0))
    passes = pass_of(model, head, num_parts=4)
    passes(batch(), is_frozen=False)
    head.weight.data[0] = torch.nan
    sizes = len(model.sizes)
    assert passes.first_non_finite() == "the head's weight"
    assert len(model.sizes) == sizes + 4


def test_a_run_in_parts_goes_on_as_any_other(tmp_path):
    """The frozen stage too; without batch statistics it learns what a run at once learns."""
    faces = write_faces(tmp_path)
    given = ["train.freeze_statistics=true", "train.freeze=2", "schedule.steps=5"]
    recipe = override(tiny_recipe(faces), [*given, "train.precision=float32"])
    ends = []
    for num_parts in (1, 4):
        out = tmp_path / f"run{num_parts}"
        in_parts = override(recipe, [f"optim.accumulate={num_parts}"])
        assert run_recipe(in_parts, out, device="cpu", console=Console(quiet=True)).finished
        ends.append(checkpoint_at(out, 5))
    for name, value in ends[0]["model"].items():
        torch.testing.assert_close(ends[1]["model"][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_parts_must_divide_the_batch(tmp_path):
    with pytest.raises(
        ValueError, match=r"optim\.accumulate must be .* divisor of optim\.batch_size 8"
    ):
        Optim(batch_size=8, accumulate=3)
    with pytest.raises(ValueError, match=r"optim\.accumulate"):
        Optim(batch_size=8, accumulate=0)
    recipe = override(
        tiny_recipe(write_faces(tmp_path)), ["optim.batch_size=80", "optim.accumulate=8"]
    )
    with pytest.raises(ValueError, match=r"36 images cannot be divided into optim\.accumulate=8"):
        run_recipe(recipe, tmp_path / "run", device="cpu", console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_part_of_one_image_has_no_batch_statistics(tmp_path):
    """Told before anything is written, not by batch normalisation in the first step."""
    recipe = override(
        tiny_recipe(write_faces(tmp_path)),
        ["optim.batch_size=4", "optim.accumulate=4", "schedule.steps=3"],
    )
    with pytest.raises(ValueError, match=r"the 4 images cannot .*=4 equal parts of at least 2"):
        run_recipe(recipe, tmp_path / "run", device="cpu", console=Console(quiet=True))
    assert not (tmp_path / "run").exists()
    frozen = override(recipe, ["train.freeze_statistics=true"])
    assert run_recipe(frozen, tmp_path / "run", device="cpu", console=Console(quiet=True)).finished
