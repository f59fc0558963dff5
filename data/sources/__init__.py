"""What a source of faces is; image files as one. Packs: data/recordio. Generated faces: data/synthetic."""

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
