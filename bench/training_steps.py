"""The training that is timed: its network, heads, images and optimiser, and the parts of a step."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusedface.bench.heads.loss import M, S
from fusedface.bench.heads.published import eager_curricularface
from fusedface.bench.timing import stopwatch
from fusedface.data import FaceBatch, FaceDataset, SyntheticFaces
from fusedface.kernels import Batch, CurricularFace
from fusedface.models import Backbone, MarginHead, create
from fusedface.models.loops.eager import torchs_operators
from fusedface.recipes.configuration.optim import Optim
from fusedface.recipes.host.memory import keep_freed_memory
from fusedface.recipes.training.batches import Batches
from fusedface.recipes.training.optim import build_optimizer
from fusedface.recipes.training.precision import Precision, pick_precision

HEADS = ("fused", "eager")
BATCHES_AN_EPOCH = 4
HeadLoss = Callable[[Tensor, Tensor], Tensor]  # embeddings, labels -> mean loss


@dataclass(frozen=True)
class Setup:
    """The training to time: B images per step, C classes, "flip" augmentation, SGD."""

    model: str
    num_rows: int = 64
    num_classes: int = 85742
    size: int = 112  # side of an image in pixels

    def __str__(self) -> str:
        return f"{self.model}, {self.size}x{self.size}, B={self.num_rows} C={self.num_classes:,}"


class TrainingSteps:
    """A network, both heads over the same class centres, images, and the optimiser of the recipes."""

    def __init__(self, setup: Setup, device: torch.device, optim: Optim | None = None) -> None:
        torch.manual_seed(0)
        if device.type == "cpu":
            keep_freed_memory()  # as `recipe run` does
        self.precision: Precision = pick_precision("auto", device)
        model = create(setup.model, input_size=(setup.size, setup.size)).to(device)
        self.model: Backbone = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        margin = CurricularFace(m=M, s=S)
        self.head = MarginHead(model.embedding_dim, setup.num_classes, margin, device=device)
        self.optim = optim or Optim(batch_size=setup.num_rows)
        self.optimizer = build_optimizer(self.model, self.head, self.optim)
        self.heads: dict[str, HeadLoss] = {"fused": self._fused, "eager": self._eager}
        self.batches = endless_batches(setup, self.model)
        self._watch = stopwatch(device)

    def _fused(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.head(embeddings, labels).loss

    def _eager(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The best eager formulation, with the same running average t."""
        state, weight = self.head.state, self.head.weight
        with torch.no_grad():
            cos_y = F.cosine_similarity(embeddings, weight[labels])
            self.head.margin.update_state(
                Batch(cos_y, embeddings.norm(dim=1), labels, labels >= 0), state
            )
        # The next step updates t in place, possibly before the backward of this step.
        return eager_curricularface(state["t"].clone())(embeddings, weight, labels)

    def timed(
        self, head: HeadLoss, network: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, float]:
        """Seconds of each part of one step; "head" is the forward and backward of the head.

        Args:
            head: computes the loss.
            network: embeds, such as the compiled backbone; the backbone itself if left out.
        """
        embed = self.model if network is None else network
        device = self.precision.device
        held: dict[str, Tensor] = {}

        def data() -> None:
            batch = next(self.batches).to(device)
            held["inputs"] = self.model.preprocessing.images_to_tensor(batch.seen())
            held["labels"] = batch.labels

        def forward() -> None:
            with self.precision.autocast():
                held["embeddings"] = embed(held["inputs"])

        def loss() -> None:
            # A detached leaf, so that the backward of the head ends before that of the backbone begins.
            leaf = held["embeddings"].detach().requires_grad_()
            with self.precision.autocast():
                held["loss"] = head(leaf, held["labels"])
            held["loss"].backward()
            assert leaf.grad is not None
            held["gradient"] = leaf.grad

        def backward() -> None:
            held["embeddings"].backward(held["gradient"])

        def update() -> None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        times = self._watch([data, forward, loss, backward, update])
        return {
            "data": times[0],
            "backbone": times[1] + times[3],
            "head": times[2],
            "optimizer": times[4],
            "step": sum(times),
        }

    def timed_with_torchs_layers(self) -> dict[str, float]:
        """`timed` of the fused head, without the compiled loops of the backbone."""
        with torchs_operators():
            return self.timed(self.heads["fused"])


def endless_batches(setup: Setup, model: Backbone) -> Iterator[FaceBatch]:
    """The batches of a run on generated faces, without end; all faces are rendered before the first."""
    num = setup.num_rows * BATCHES_AN_EPOCH
    people = min(setup.num_classes, num)
    source = _rendered(people, -(-num // people), setup.size)
    dataset = FaceDataset(source, "flip", model.preprocessing, seed=0)
    batches = Batches(len(dataset), setup.num_rows, seed=0)

    def endless() -> Iterator[FaceBatch]:
        step = 0
        while True:
            for batch in batches.load(dataset, step, num_workers=0, pin_memory=False):
                yield batch
                step += 1

    return endless()


@functools.lru_cache(maxsize=1)
def _rendered(people: int, images_of_each: int, size: int) -> SyntheticFaces:
    """Faces that are kept, so that a second head on the same ones does not render them again."""
    source = SyntheticFaces(people, images_of_each, image_size=(size, size))
    source.render(torch.arange(len(source)))
    return source
