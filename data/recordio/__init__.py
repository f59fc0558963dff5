"""MXNet's RecordIO, read and written without MXNet: the packs in which face-recognition data is shared."""

from fusedface.data.recordio.pack import PackSource, open_pack, pack_file
from fusedface.data.recordio.writer import write_pack

__all__ = ["PackSource", "open_pack", "pack_file", "write_pack"]
