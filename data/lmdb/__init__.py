"""Faces in an LMDB file, the format of the synthetic sets of Vec2Face; read without the LMDB library."""

from fusedface.data.lmdb.source import LmdbSource, lmdb_file, open_lmdb

__all__ = ["LmdbSource", "lmdb_file", "open_lmdb"]
