"""`export`: write a network in several formats, check each against PyTorch, and write model cards."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from fusedface.data import Images, PairList, open_source
from fusedface.data.sizes import scaled_note
from fusedface.recipes.evaluation.input_contract import InputContract
from fusedface.recipes.evaluation.out_folder import existing_folder
from fusedface.recipes.evaluation.threshold_file import SUFFIX, model_file, write_thresholds
from fusedface.recipes.export import onnx_int8
from fusedface.recipes.export.card import model_card
from fusedface.recipes.export.check import Check, check_table, compare, embedders, refuse_inexact
from fusedface.recipes.export.deployed import Deployed
from fusedface.recipes.export.formats import Format, get_format
from fusedface.recipes.export.int8_layers import layer_rows, layer_table
from fusedface.recipes.export.job import Job
from fusedface.recipes.export.source import Trained, calibration_faces, checking_pairs, open_trained
from fusedface.recipes.host.terminal import say, working
from fusedface.recipes.run_directory.files import write_text


def export(
    source: Path,
    formats: Sequence[str],
    out: Path,
    *,
    data: str | None = None,
    pair_lists: Sequence[Path] = (),
    root: Path | None = None,
    grey_levels: bool = False,
    keep_float: Sequence[str] = (),
    console: Console | None = None,
) -> list[Path]:
    """Write a file, a model card and thresholds for each format into `out`; it writes all of them or none.

    Args:
        source: a run directory or a checkpoint.
        formats: keys of `FORMATS`.
        out: a folder; files of the same name are replaced, and with a file its card and its thresholds.
        data: faces for the calibration of 8-bit formats; None generates faces.
        pair_lists: pairs for the comparison of accuracy and for thresholds. Without any, the comparison
            uses generated faces, and there are no thresholds, because they would not suit photos.
        root: the folder that paths in `pair_lists` are relative to.
        grey_levels: the files take grey levels 0..255, whatever the network was trained with.
        keep_float: layers or blocks that stay float32 in 8-bit files, such as "blocks.0.expand.conv".
        console: where the comparison is printed.

    Returns:
        The paths of the files, without those of the cards.

    Raises:
        ValueError: something cannot be read, `out` is a file, a format is unknown or not installed, the
            embeddings of a float32 file are not PyTorch's, or those of any file are not finite.
    """
    console = console or Console()
    chosen = [get_format(name) for name in dict.fromkeys(formats)]
    _check_options(chosen, grey_levels, keep_float)
    trained = open_trained(source)
    network = Deployed(trained.model, grey_levels)
    contract = network.contract
    pairs = checking_pairs(pair_lists, root, contract.size)
    _say_scaled(pairs if pair_lists else {}, data, contract.size, console)

    def calibration():
        return contract.prepare(calibration_faces(data, contract.size))

    job = Job(network, trained.loaded.step, calibration, tuple(keep_float))
    with tempfile.TemporaryDirectory(dir=existing_folder(out), prefix=".export-") as temporary:
        files = {f.name: Path(temporary) / f"{trained.name}{f.suffix}" for f in chosen}
        for kind in chosen:
            with working(console, f"writing {files[kind.name].name}"):
                kind.write(job, files[kind.name])
        checks = _compare(trained, chosen, files, contract, pairs, console)
        layers = _int8_layers(job, chosen, files, console)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        for list_name in pairs:
            console.print(check_table(list_name, checks, sizes))
        for kind in chosen:
            path, known = files[kind.name], checks[kind.name].thresholds if pair_lists else {}
            rows = layers.get(kind.name, ())
            card = model_card(trained, kind, contract, checks, sizes, data, known, rows)
            write_text(path.with_name(path.name + ".md"), card)
            if known:
                write_thresholds(path.with_name(path.name + SUFFIX), model_file(path), known)
        _move_files(Path(temporary), out)
    written = [out / path.name for path in files.values()]
    for path in written:
        more = f", {path.name}{SUFFIX}" if pair_lists else ""
        say(console, f"wrote {path}{more} and {path.name}.md")
    return written


def _check_options(chosen: Sequence[Format], grey_levels: bool, keep_float: Sequence[str]) -> None:
    """Raise ValueError for options that the chosen formats do not support."""
    if grey_levels and any(not kind.has_graph for kind in chosen):
        raise ValueError(
            "a .safetensors file holds weights and no graph that could take grey levels: "
            "export it without --grey-levels"
        )
    if keep_float and all(kind.is_exact for kind in chosen):
        raise ValueError("--keep-float is of 8-bit files: give --format onnx-int8 too")


def _say_scaled(
    pairs: Mapping[str, PairList], data: str | None, size: tuple[int, int], console: Console
) -> None:
    """Say of the given faces how many have another size than the network takes; before minutes of work."""
    faces: dict[str, Images] = {name: listed.images for name, listed in pairs.items()}
    if data is not None:
        faces[data] = open_source(data)
    for name, images in faces.items():
        if note := scaled_note(images, size, name):
            say(console, note)


def _compare(
    trained: Trained,
    chosen: Sequence[Format],
    files: Mapping[str, Path],
    contract: InputContract,
    pairs: Mapping[str, PairList],
    console: Console,
) -> dict[str, Check]:
    """Compare each file with PyTorch; raise ValueError if a float32 file is not exact."""
    runs = {kind.name: kind.open(files[kind.name]) for kind in chosen}
    with working(console, "comparing with PyTorch"):
        checks = compare(
            embedders(trained.model, runs, contract),
            pairs,
            contract.size,
            trained.model.preprocessing.flip,
        )
    for kind in chosen:
        if kind.is_exact:
            refuse_inexact(kind.name, checks[kind.name])
    return checks


def _int8_layers(
    job: Job, chosen: Sequence[Format], files: Mapping[str, Path], console: Console
) -> dict[str, list[tuple[str, ...]]]:
    """What 8 bits cost in each layer, by format; also printed."""
    layers = {
        kind.name: layer_rows(onnx_int8.cosines(job, files[kind.name]), job.keep_float)
        for kind in chosen
        if not kind.is_exact
    }
    for rows in layers.values():
        console.print(layer_table(rows))
    return layers


def _move_files(folder: Path, out: Path) -> None:
    """Move the files of a folder into `out`; thresholds that were those of a replaced file go."""
    out.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        (out / f"{path.name}{SUFFIX}").unlink(missing_ok=True)
    for path in folder.iterdir():
        os.replace(path, out / path.name)
