"""Open a source of any kind, chosen by its path."""

from pathlib import Path

from fusedface.data.lmdb import LmdbSource, lmdb_file, open_lmdb
from fusedface.data.recordio import PackSource, open_pack, pack_file
from fusedface.data.sources.files import FileSource, open_folder, open_list


def open_source(
    spec: str | Path, *, skip_bad: bool = False
) -> FileSource | PackSource | LmdbSource:
    """Open a RecordIO pack, an LMDB file, a folder with a folder per identity, or a list of "path label".

    Args:
        spec: for a pack, a folder with train.rec or a .rec file; for LMDB, a .lmdb file or a folder
            with data.mdb; any other folder has a folder per identity; any other file is a list.
        skip_bad: leave out broken records of a pack or LMDB file, and say so in `notes`.

    Raises:
        ValueError: the path does not exist or holds no usable faces; the message says what to do.
    """
    path = Path(spec)
    if pack_file(path) is not None:
        return open_pack(path, skip_bad=skip_bad)
    if lmdb_file(path) is not None:
        return open_lmdb(path, skip_bad=skip_bad)
    if path.is_dir():
        return open_folder(path)
    if path.is_file():
        return open_list(path)
    raise ValueError(
        f"{path} does not exist; give a folder with a folder per identity, a RecordIO pack "
        "(a folder with train.rec), an LMDB file, or a list file"
    )
