"""The interface between margins and backends.

    negatives.py      N of a hard negative, and the statistics of the negatives
    primitive.py      what every backend computes
    whole.py          what a backend computes if its kernels have all of a loss
    normalisation.py  unit rows and lengths
    update.py         a step of SGD that a backward makes
    random_bits.py    random numbers by counter
    cache_folder.py   where measurements and compiled code are kept

It imports nothing of ours.
"""
