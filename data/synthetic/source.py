"""SyntheticFaces: a source of generated people, without files."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fusedface.data.sources import FaceSource
from fusedface.data.synthetic.canvas import Canvas
from fusedface.data.synthetic.face import draw_face
from fusedface.data.synthetic.frame import Frame
from fusedface.data.synthetic.hashing import uniforms
from fusedface.data.synthetic.named import Named
from fusedface.data.synthetic.nuisance import (
    draw_background,
    make_tiles,
    pick_tile,
    take_photo,
)
from fusedface.data.synthetic.occlusions import draw_occlusions
from fusedface.data.synthetic.palette import hair_color, skin_color
from fusedface.data.synthetic.parameters import (
    CONDITIONS,
    LABELS,
    conditions,
    named_traits,
    traits,
)
from fusedface.data.synthetic.pose import Pose
from fusedface.data.synthetic.scene import Scene

# Not scaled by the difficulty: they are not a nuisance, or `happens` scales what they decide.
UNSCALED = ("tile_0", "tile_1", "tile_2")
# Conditions that still vary at difficulty 0, if less, so that no two photos are the same.
ALWAYS_VARIED = ("background_r", "background_g", "background_b", "cloth")
# Images rendered at once: few enough for the caches of a CPU core, enough to fill a GPU (about 1 GB).
RENDERED_ON_CPU, RENDERED_ON_GPU = 16, 512
KEPT_BYTES = 2**29  # of finished images on a CPU, where rendering one costs some milliseconds


class SyntheticFaces(FaceSource):
    """Generated people in families of look-alikes.

    A person is a set of traits (shape of face, eyes, brows, nose, mouth; skin, hair, beard, marks), a
    photo a set of conditions (pose, expression, light, background, occlusion, blur, noise). Each image is a
    function of (seed, identity, image) only, and not of batch, order or process.

    Args:
        num_identities: people, at least 2.
        images_per_identity: photos of each, at least 1.
        image_size: (H, W) in pixels.
        seed: of people and photos.
        difficulty: 0 to 1, how much the conditions vary.
        label_noise: fraction of the labels that are replaced by another person's.
        first_identity: number of the first person; sources with disjoint ranges have no person in
            common, and person k is the same in every source of the same seed.
        family_size: how many people look alike.
        family_spread: how far members of a family differ, as a fraction of how far all people do.
        device: where images are rendered.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        num_identities: int,
        images_per_identity: int,
        *,
        image_size: tuple[int, int] = (112, 112),
        seed: int = 0,
        difficulty: float = 0.5,
        label_noise: float = 0.0,
        first_identity: int = 0,
        family_size: int = 4,
        family_spread: float = 0.45,
        device: torch.device | str = "cpu",
    ) -> None:
        _require("num_identities", num_identities, num_identities >= 2, "at least 2")
        _require("images_per_identity", images_per_identity, images_per_identity >= 1, "at least 1")
        _require("image_size", image_size, min(image_size) >= 16, "at least 16x16 pixels")
        _require("difficulty", difficulty, 0.0 <= difficulty <= 1.0, "in [0, 1]")
        _require("label_noise", label_noise, 0.0 <= label_noise < 1.0, "in [0, 1)")
        _require("first_identity", first_identity, first_identity >= 0, "at least 0")
        _require("family_size", family_size, family_size >= 1, "at least 1")
        _require("family_spread", family_spread, 0.0 < family_spread <= 1.0, "in (0, 1]")
        self.image_size, self.seed, self.difficulty = image_size, seed, difficulty
        self.first_identity, self.images_per_identity = first_identity, images_per_identity
        self.family_size, self.family_spread = family_size, family_spread
        self.device = torch.device(device)
        self.class_names = [f"identity {first_identity + i}" for i in range(num_identities)]
        self._identities = np.repeat(np.arange(num_identities), images_per_identity)
        self.labels = _with_noise(self._identities, num_identities, label_noise, seed)
        self._tiles = make_tiles(*image_size, self.device)
        self._kept: Tensor | None = None
        self._is_kept = torch.zeros(len(self.labels), dtype=torch.bool)

    @property
    def identities(self) -> np.ndarray:
        """(N,) int64, who is really on each image, also if its label is wrong."""
        return self._identities

    def family(self, index: int) -> int:
        """The family of the person on an image."""
        return (self.first_identity + index // self.images_per_identity) // self.family_size

    def image(self, index: int) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB."""
        return self.render(torch.tensor([index]))[0].cpu().numpy()

    def read(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """See `Images`; many are rendered at once."""
        return list(self.render(torch.as_tensor(indices)).cpu().numpy())

    def describe(self, index: int) -> str:
        """The person's number and the image's."""
        identity, image = divmod(int(index), self.images_per_identity)
        return f"identity {self.first_identity + identity}, image {image}"

    def render(self, indices: Tensor) -> Tensor:
        """Images (n, H, W, 3) uint8, RGB, on `device`.

        Args:
            indices: (n,) integers in [0, len).

        Raises:
            ValueError: an index is out of range.
        """
        indices = indices.long()
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise ValueError(f"indices must be in [0, {len(self)}), got {indices.tolist()[:8]}")
        if self.device.type == "cpu" and len(self) * self._bytes_per_image <= KEPT_BYTES:
            return self._from_kept(indices.cpu())
        return self._render_all(indices.to(self.device))

    @property
    def _bytes_per_image(self) -> int:
        return 3 * self.image_size[0] * self.image_size[1]

    def _from_kept(self, indices: Tensor) -> Tensor:
        """Render images, or take finished ones from an earlier epoch: they never change."""
        if self._kept is None:
            self._kept = torch.empty(len(self), *self.image_size, 3, dtype=torch.uint8)
        new = indices[~self._is_kept[indices]].unique()
        if len(new):
            self._kept[new] = self._render_all(new)
            self._is_kept[new] = True
        return self._kept[indices]

    def _render_all(self, indices: Tensor) -> Tensor:
        at_once = RENDERED_ON_CPU if self.device.type == "cpu" else RENDERED_ON_GPU
        parts = [self._render(part) for part in indices.split(at_once)]
        empty = torch.zeros(0, *self.image_size, 3, dtype=torch.uint8, device=self.device)
        return torch.cat([empty, *parts])

    @torch.no_grad()
    def _render(self, indices: Tensor) -> Tensor:
        identity = self.first_identity + indices // self.images_per_identity
        image = indices % self.images_per_identity
        people = named_traits(traits(self.seed, identity, self.family_size, self.family_spread))
        raw = conditions(self.seed, identity, image)
        scene = self._scene(people, raw)
        draw_background(scene.canvas, scene.c)
        head = draw_face(scene)
        draw_occlusions(scene, head, self.difficulty)
        photo = take_photo(scene.canvas, scene.c, self._tiles.noise)
        return (photo * 255.0 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _scene(self, people: Named, raw: Named) -> Scene:
        scaled = self._scaled(raw)
        pose = Pose(scaled)
        frame = Frame(*self.image_size, self.difficulty)
        x, y = pose.grid(frame.height, frame.width)
        streaks = pick_tile(self._tiles.streaks, raw.tile_0)
        return Scene(
            canvas=Canvas(x.new_empty(len(x), 3, *self.image_size), x, y, frame),
            p=people,
            c=scaled,
            raw=raw,
            pose=pose,
            skin=skin_color(people),
            strands=hair_color(people) * (1.0 + 0.12 * streaks),
            grain=pick_tile(self._tiles.grain, raw.tile_0),
        )

    def _scaled(self, raw: Named) -> Named:
        """Conditions scaled by the difficulty."""
        strength: dict[str, float] = dict.fromkeys(CONDITIONS, self.difficulty)
        strength |= dict.fromkeys(ALWAYS_VARIED, 0.3 + 0.7 * self.difficulty)
        strength |= dict.fromkeys(UNSCALED, 1.0)
        return raw.scaled(strength)


def _with_noise(labels: np.ndarray, num_classes: int, share: float, seed: int) -> np.ndarray:
    """Labels (N,) with a share replaced by another class; each image has its own draw."""
    index = torch.arange(len(labels))
    chance, other = uniforms(seed, LABELS, (index,), 2).unbind(dim=1)
    shift = 1 + (other * (num_classes - 1)).long().numpy()
    return np.where(chance.numpy() < share, (labels + shift) % num_classes, labels)


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")
