"""What the fork server of the rank pool imports, once, so that its ranks need not."""

import os

# Read when PyTorch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import tests.ranks.pool  # noqa: F401
