"""Indices of the numbers that the kernels of a whole loss pass on to each other.

`saved`, which the backward needs, and `scratch` are tensors with the rows named here, padded B numbers
each. `numbers` has numbers of the whole batch.
"""

import triton.language as tl

WRONG = tl.constexpr(-2)  # a label that is neither a class nor ignored

# Of `saved`: threshold, lse, then a = s f' and v = -s f' T'; with kept exponentials also their sum.
THRESHOLD, LSE, A, V = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
TOTAL = tl.constexpr(4)
NUM_SAVED, NUM_FACTORS = 4, 4
# Of `scratch`: target cosine, length, T, T'.
COS, NORM, TARGET, SLOPE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
NUM_SCRATCH = 4
# Of `numbers`: the linear coefficient of N, the number of valid rows, the states that were used.
LINEAR, NUM_VALID, STATE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
NUM_NUMBERS = 4
# Of `stats`: see NegativeStats.
NUM_STATS = 5
