"""Loops in C for layers of a network on a CPU, in place of torch's operators.

numbers.c, norm.c and depthwise.c are compiled as one file by kernels/chunks/build.py. library.py calls the
library, norm.py and depthwise.py make torch functions of it, and eager.py says who may be replaced.
"""
