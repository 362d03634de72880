"""A real Slurm on one machine, for trying things out and for tests."""
