"""Floor 2: the place of a rank in the process grid, the process groups of each axis, and seeds by name."""

import dist_plm.device  # noqa: F401 (silences Megatron-core's import warnings before the first import of it)
