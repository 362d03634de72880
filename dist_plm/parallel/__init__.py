"""Floor 2: the place of a rank in the process grid, and the process groups and random state of each axis."""

import dist_plm.device  # noqa: F401 (silences Megatron-core's import warnings before the first import of it)
