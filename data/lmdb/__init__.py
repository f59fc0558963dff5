"""Faces in an LMDB file, as the synthetic sets of Vec2Face are shared; read without its library."""

from fusedface.data.lmdb.source import LmdbSource, lmdb_file, open_lmdb

__all__ = ["LmdbSource", "lmdb_file", "open_lmdb"]
