"""MXNet's RecordIO, the format in which face-recognition data is shared, read and written without MXNet."""

from fusedface.data.recordio.pack import PackSource, open_pack, pack_file
from fusedface.data.recordio.writer import write_pack

__all__ = ["PackSource", "open_pack", "pack_file", "write_pack"]
