"""The fused head in Triton kernels; docs/performance.md has the method and the figures.

    operators of torch.library, called by functional.py
        primitive.py      the primitive            loss.py, loss_operators.py   all of a margin loss
    what runs in which order, on the host
        forward.py, backward.py   of the primitive and of what both share
        loss_forward.py, whole.py  of a whole loss  arguments.py            what they pass on
        learning.py       a backward that makes a step of SGD on the class centres
        normalised.py, class_chunks.py   unit rows, and those of chunks of classes in turn
        choice.py         which tile shape runs    replay.py                launches repeated
    kernels
        log_sum_exp.py    the pass over the classes, and the gradient's direction at D <= 256
        gradients.py      the gradient of the class centres at D <= 256
        chunk_gradients.py  both gradients at larger D, in chunks of classes
        kept.py           both gradients from exponentials that the forward kept (kept_backward.py)
        rows.py, combination.py, reductions.py   work per row and on the batch
        margin.py, target.py                     T, its slopes and the state
        row_update.py     the step of SGD within a backward
        chunk_sums.py     the sums of one chunk of classes after another
        update.py         the step of SGD on class centres (centre_step.py); class_centres.py: unit rows
    below
        tile.py           device helpers           slots.py                 where numbers of rows lie
        layout.py         padding, splits, chunks  tiles.py                 tile shapes that ship
        launch.py         starting a kernel        cache.py                 measured choices on disk
        memory.py         what a forward keeps, in two pieces

tuning.py measures tile shapes on request; traffic.py counts flops and bytes. Importing it needs Triton.
"""
