"""The passes of the chunked backend over all class centres, in two implementations.

operands.py defines what a pass reads and what it sums up. plain.py makes the passes from torch operators,
for any device and dtype. compiled.py makes each step between two matrix products one compiled loop, for
float32 on CPUs with a C compiler: passes.c has the loops, build.py compiles them, library.py calls them.
Numerators wait for the backward in kept.py, most of them in a gradient's memory (gradient_memory.py).
PReLU's backward is one of the loops too; other layers have loops in models/loops, which build.py compiles.
"""
