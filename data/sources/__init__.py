"""The interface of a source of faces, and image files as a source.

Other sources: packs in data/recordio, LMDB files in data/lmdb, generated faces in data/synthetic.
"""

from fusedface.data.sources.base import FaceSource, Images, SomeIdentities, SomeImages
from fusedface.data.sources.files import FileSource
from fusedface.data.sources.images import UnreadableImage
from fusedface.data.sources.records import BadRecord

__all__ = [
    "BadRecord",
    "FaceSource",
    "FileSource",
    "Images",
    "SomeIdentities",
    "SomeImages",
    "UnreadableImage",
]
