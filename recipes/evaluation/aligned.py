"""Refuses images that are not aligned crops: a network expects the eyes at their place in such a crop."""

from fusedface.data import Images
from fusedface.data.sources.images import image_size
from fusedface.recipes.host.program import command


def refuse_unaligned(images: Images, size: tuple[int, int]) -> None:
    """Raise ValueError unless every image has the size of an aligned crop, or a whole multiple of it.

    Args:
        images: the images to embed.
        size: (H, W) of the crops that the network takes.

    Raises:
        UnreadableImage: an image cannot be read.
        ValueError: an image has another size; the message says how to align it.
    """
    (height, width), wrong = size, []
    for index in range(len(images)):
        name = images.describe(index)
        found = image_size(images.encoded(index), name)
        factor = max(1, found[0] // height)
        if found != (factor * height, factor * width):
            wrong.append(f"{name} is {found[0]}x{found[1]}")
    if not wrong:
        return
    more = f", and {len(wrong) - 1:,} more are no such crops" if len(wrong) > 1 else ""
    align = command("data", "align", "PHOTOS", "landmarks.csv", "CROPS")
    raise ValueError(
        f"{wrong[0]}, no aligned face crop of {height}x{width}{more}. Find eyes, nose and corners of the "
        f"mouth with a detector of yours, write lines of path,x1,y1,...,x5,y5 and run: {align}"
    )
