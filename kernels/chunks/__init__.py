"""The passes of the chunked backend over all class centres, in two ways that compute the same.

operands.py is what they read and sum up. plain.py has them as torch's operators, for any device and
dtype; compiled.py has what lies between the matrix products as one compiled loop each, for float32 on CPUs
where a C compiler is there: passes.c is the loops, build.py makes a library of them, library.py calls it.
PReLU's backward is among the loops too, so that one library is all there is to compile.
"""
