"""Faces: sources of labelled images, augmentation, batches, and verification pairs."""

from fusedface.data.contact_sheet import contact_sheet
from fusedface.data.dataset import FaceBatch, FaceDataset, collate_whole, read_batches
from fusedface.data.fingerprints import changed_images, fingerprint, fingerprint_of_files
from fusedface.data.overlap import overlaps
from fusedface.data.pair_list import PairList, from_index_pairs
from fusedface.data.pairs import read_pairs
from fusedface.data.recordio import PackSource, open_pack, write_pack
from fusedface.data.sizes import check_sizes, other_sizes
from fusedface.data.source_kinds import open_source
from fusedface.data.sources import (
    BadRecord,
    FaceSource,
    FileSource,
    Images,
    SomeIdentities,
    SomeImages,
    UnreadableImage,
)
from fusedface.data.synthetic import IndexPairs, SyntheticFaces, synthetic_pairs
from fusedface.data.transforms import PRESETS, augmentation
from fusedface.data.verification_bins import find_sets, write_bin

__all__ = [
    "PRESETS",
    "BadRecord",
    "FaceBatch",
    "FaceDataset",
    "FaceSource",
    "FileSource",
    "Images",
    "IndexPairs",
    "PackSource",
    "PairList",
    "SomeIdentities",
    "SomeImages",
    "SyntheticFaces",
    "UnreadableImage",
    "augmentation",
    "changed_images",
    "check_sizes",
    "collate_whole",
    "contact_sheet",
    "find_sets",
    "fingerprint",
    "fingerprint_of_files",
    "from_index_pairs",
    "open_pack",
    "open_source",
    "other_sizes",
    "overlaps",
    "read_batches",
    "read_pairs",
    "synthetic_pairs",
    "write_bin",
    "write_pack",
]
