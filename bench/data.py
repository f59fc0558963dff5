"""How many images per second does each source deliver with each augmentation?

Run: python cli.py bench data
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fusedface.bench import batched
from fusedface.bench.timing import quartiles
from fusedface.data import PRESETS, FaceDataset, FaceSource, SyntheticFaces, open_source
from fusedface.models import Preprocessing

IMAGES_PER_IDENTITY = 4
JPEG_QUALITY = 95
CPU = torch.device("cpu")


def run(
    num_images: int,
    rounds: int,
    path: str | None = None,
    presets: tuple[str, ...] = tuple(PRESETS),
    device: torch.device = CPU,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> list[dict[str, Any]]:
    """Time batches of `num_images` in this process: rendering, reading, decoding and augmenting.

    Args:
        num_images: images per batch.
        rounds: batches of each source and preset, which take turns.
        path: a further source to time, as `open_source` takes it.
        presets: names of augmentation presets.
        device: the device that augments whole batches (bench/batched.py); the CPU does all other work.
        note: called with a text on the current work.

    Returns:
        One row for each source and preset: images per second with quartiles, or a note why it did not run.
        Rendering is timed once per image and without augmentation, because rendered images are kept.
    """
    note("rendering faces")
    kept = _faces(num_images)
    rendering = [_images_per_second(lambda: _render(_faces(num_images)), num_images)]
    _render(kept)
    rows = [_row("generated, rendered anew", "none", num_images, rendering)]
    with _as_files(kept) as folder:
        for name, source in _sources(kept, folder, path).items():
            for preset in presets:
                note(f"{name}: {preset}")
                rows.append(_measure(name, source, preset, num_images, rounds))
    note("batched on the device")
    rows.append(_measure_batched(kept, device, num_images, rounds))
    return rows


def _sources(kept: FaceSource, folder: Path, path: str | None) -> dict[str, FaceSource]:
    """The sources to time, by name: the kept faces, the same as files, and the one at `path`."""
    more: dict[str, FaceSource] = {} if path is None else {path: open_source(path)}
    return {
        "generated, kept": kept,
        "folder of JPEG": open_source(folder),
        "list of JPEG": open_source(folder / "list.txt"),
    } | more


def _measure_batched(
    source: SyntheticFaces, device: torch.device, num_images: int, rounds: int
) -> dict[str, Any]:
    """Time "crop" and "color" together on the device, with the images already in its memory."""
    images = source.render(torch.arange(len(source)))[:num_images]
    images = images.permute(0, 3, 1, 2).contiguous().to(device)
    generator = torch.Generator(device).manual_seed(0)

    def once() -> None:
        batched.apply(images, batched.choose(len(images), generator))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    once()
    rates = [_images_per_second(once, len(images)) for _ in range(rounds)]
    return _row(f"a batch on {device.type}", "crop and color", num_images, rates)


def _measure(
    name: str, source: FaceSource, preset: str, num_images: int, rounds: int
) -> dict[str, Any]:
    size = source.image(0).shape[:2]
    try:
        dataset = FaceDataset(source, preset, Preprocessing(input_size=size), seed=0)
    except (ValueError, ImportError) as error:
        return _row(name, preset, num_images, [], str(error).splitlines()[0])
    indices = np.resize(np.arange(len(source)), num_images).tolist()
    dataset.batch(indices[:8])
    rates = [_images_per_second(lambda: dataset.batch(indices), num_images) for _ in range(rounds)]
    return _row(name, preset, num_images, rates)


def _row(
    source: str, preset: str, num_images: int, rates: list[float], note: str = ""
) -> dict[str, Any]:
    row: dict[str, Any] = {"source": source, "augmentation": preset, "num_images": num_images}
    return row | {"images_per_second": quartiles(rates) if rates else None, "note": note}


def _images_per_second(call: Callable[[], object], num_images: int) -> float:
    began = time.perf_counter()
    call()
    return num_images / (time.perf_counter() - began)


def _faces(num_images: int) -> SyntheticFaces:
    return SyntheticFaces(max(2, -(-num_images // IMAGES_PER_IDENTITY)), IMAGES_PER_IDENTITY)


def _render(source: SyntheticFaces) -> None:
    source.render(torch.arange(len(source)))


@contextmanager
def _as_files(source: SyntheticFaces) -> Iterator[Path]:
    """The source as a folder of JPEG files with a list of them, until the block ends."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, lines = Path(temporary), []
        for index, label in enumerate(source.labels):
            path = folder / f"person{label:05d}" / f"{index}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(source.image(index)).save(path, quality=JPEG_QUALITY)
            lines.append(f"{path.relative_to(folder)} {label}")
        (folder / "list.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield folder
