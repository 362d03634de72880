"""Says before a run is queued whether it fits into its GPUs, and how long it will take."""
