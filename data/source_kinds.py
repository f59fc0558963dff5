"""Which kind of source a path is."""

from pathlib import Path

from fusedface.data.recordio import PackSource, open_pack, pack_file
from fusedface.data.sources.files import FileSource, open_folder, open_list


def open_source(spec: str | Path, *, skip_bad: bool = False) -> FileSource | PackSource:
    """Open a RecordIO pack, a folder with a folder per identity, or a list file of "path label".

    Args:
        spec: a folder that holds train.rec, or a .rec file; any other folder; any other file.
        skip_bad: leave out what a pack holds of broken records, and say so in its `notes`.

    Raises:
        ValueError: there is no such path, or it holds no usable faces; the message says what to do.
    """
    path = Path(spec)
    if pack_file(path) is not None:
        return open_pack(path, skip_bad=skip_bad)
    if path.is_dir():
        return open_folder(path)
    if path.is_file():
        return open_list(path)
    raise ValueError(
        f"{path} does not exist; give a folder with a folder per identity, a RecordIO pack "
        "(a folder with train.rec), or a list file"
    )
