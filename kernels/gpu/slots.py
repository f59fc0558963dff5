"""Where the numbers of the rows lie that the kernels of a whole loss hand on.

`saved`, which the backward needs, and `scratch` have the rows that are named here, of padded B numbers;
`numbers` is of the batch.
"""

import triton.language as tl

WRONG = tl.constexpr(-2)  # a label that is neither a class nor ignored

# Of `saved`: threshold, lse, then a = s f' and v = -s f' T'.
THRESHOLD, LSE, A, V = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
NUM_SAVED = 4
# Of `scratch`: target cosine, length, T, T'.
COS, NORM, TARGET, SLOPE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
NUM_SCRATCH = 4
# Of `numbers`: the linear coefficient of N, the number of valid rows, the states that were used.
LINEAR, NUM_VALID, STATE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
NUM_NUMBERS = 4
