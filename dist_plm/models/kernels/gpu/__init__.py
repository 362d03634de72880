"""Holds the kernels for CUDA, in Triton."""
