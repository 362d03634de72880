"""What the fork server imports, once, so that the processes it forks need not."""

import os

# Read when PyTorch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import tests.ranks.pool  # noqa: F401
