"""The fused head in Triton kernels; docs/performance.md has the method and the figures.

    tile.py       device helpers: a tile of cosines, N and N', rounding to operands
    rows.py       unit rows, target cosines, what the backward does per row
    flash.py      D <= 256: one pass over the classes for log-sum-exp and gradient direction
    centres.py    D <= 256: the gradient of the class centres
    wide.py       any D: the log-sum-exp alone; D > 256: the backward in chunks of classes
    forward.py, backward.py    what runs in which order, on the host
    layout.py     sizes: padding, splits, chunks, buckets
    configs.py    tile shapes that ship       choice.py   which one runs
    launch.py     starting a kernel with it   tuning.py, cache.py    measuring, on request
    traffic.py    flops and bytes             doctor.py   what runs here and why
    ops.py        the operators of torch.library: the primitive

Only doctor.py imports where triton is missing.
"""
