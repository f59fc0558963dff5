"""What margins and backends have in common; imports nothing of ours.

negatives.py has N of a hard negative and the statistics of the negatives, primitive.py what a backend
computes, whole.py what one does that has all of a loss, normalisation.py the lengths of rows,
update.py a step of SGD that a backward makes,
random_bits.py random numbers by counter.
"""
