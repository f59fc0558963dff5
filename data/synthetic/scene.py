"""The scene of a photo: people, the conditions of their photos, and the unfinished pictures."""

from dataclasses import dataclass, replace

from torch import Tensor

from fusedface.data.synthetic.canvas import Canvas
from fusedface.data.synthetic.frame import Box
from fusedface.data.synthetic.named import Named
from fusedface.data.synthetic.pose import Pose

# How far features stand out of the plane of the head, in half image sides.
EYES, BROWS, NOSE, MOUTH, CHIN, EARS, HAIR, HEAD = 0.42, 0.46, 0.80, 0.55, 0.40, -0.15, 0.15, 0.0


@dataclass(frozen=True)
class Scene:
    """n photos, with everything that drawing them needs."""

    canvas: Canvas
    p: Named
    """Traits of the people."""
    c: Named
    """Conditions, scaled by the difficulty."""
    raw: Named
    """Conditions in [-1, 1)."""
    pose: Pose
    skin: Tensor
    """(n, 3, 1, 1)."""
    strands: Tensor
    """(n, 3, H, W), hair in streaks."""
    grain: Tensor
    """(n, 1, H, W) around 0, of skin and stubble."""

    def window(self, box: Box) -> "Scene":
        """The part of the scene where a box of the face can be; painting on it changes the whole."""
        part = self.canvas.window(box)
        return replace(self, canvas=part, strands=part.of(self.strands), grain=part.of(self.grain))

    def take(self, chosen: Tensor) -> "Scene":
        """Copies of some of the photos, by index (k,)."""
        return Scene(
            canvas=self.canvas.take(chosen),
            p=self.p.take(chosen),
            c=self.c.take(chosen),
            raw=self.raw.take(chosen),
            pose=self.pose.take(chosen),
            skin=self.skin[chosen],
            strands=self.strands[chosen],
            grain=self.grain[chosen],
        )
