"""Indices of the numbers that the kernels of a whole loss pass on to each other.

`saved`, which the backward needs, and `scratch` are tensors with the rows named here, padded B numbers
each. `numbers` has numbers of the whole batch.
"""

import triton.language as tl

WRONG = tl.constexpr(-2)  # a label that is neither a class nor ignored

# Of `saved`: threshold, log-sum-exp in base 2, then a = s f', v = -s f' T' and the loss's derivative in
# the length; with kept exponentials also their sum.
THRESHOLD, LSE_2, A, V = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
OF_LENGTH, TOTAL = tl.constexpr(4), tl.constexpr(5)
NUM_SAVED = 5
NUM_FACTORS = 4  # and one more where gradient flows through the lengths, that in the length
MOST_FACTORS = 5
LENGTH_FACTOR = tl.constexpr(NUM_FACTORS)
# Of `scratch`: target cosine, length, T, T', and of lengths with gradient: dT/da, the penalty, its dg/da.
COS, NORM, TARGET, SLOPE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
LENGTH_SLOPE, PENALTY, PENALTY_SLOPE = tl.constexpr(4), tl.constexpr(5), tl.constexpr(6)
NUM_SCRATCH = 7
# Of `numbers`: the linear coefficient of N, the number of valid rows, the states that were used, and what
# undoes the division of the factors. That is aligned to 16 bytes, as kernels are given its address.
LINEAR, NUM_VALID, STATE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
UNSCALE = tl.constexpr(8)
NUM_NUMBERS = 12
# Of `stats`: see NegativeStats.
NUM_STATS = 5
