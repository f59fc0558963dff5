"""Generated faces: people in families of look-alikes, photographed under varied conditions."""

from fusedface.data.synthetic.pairs import IndexPairs, synthetic_pairs
from fusedface.data.synthetic.source import SyntheticFaces

__all__ = ["IndexPairs", "SyntheticFaces", "synthetic_pairs"]
