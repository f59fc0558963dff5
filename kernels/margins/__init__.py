"""kernels/margins"""
