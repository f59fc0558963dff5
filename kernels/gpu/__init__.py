"""The fused head in Triton kernels; docs/performance.md has the method and the figures.

    tile.py       device helpers: a tile of cosines, N and N', rounding to operands
    rows.py       unit rows in the operand dtype, target cosines, what the backward does per row
    flash.py      D <= 256: one pass over the classes for the log-sum-exp and the gradient's direction
    centres.py    D <= 256: the gradient of the class centres
    wide.py       D > 256: log-sum-exp, then class chunks of coefficients and two products
    layout.py     sizes: padding, splits, chunks, buckets
    configs.py    tile shapes that ship            launch.py   which of them runs, and on which device
    tuning.py     measured choices, cached on disk  traffic.py  flops and bytes
    ops.py        the operators of torch.library: the primitive
    doctor.py     what runs here and why

Only doctor.py imports where triton is missing.
"""
