"""Checks what Slurm is asked for, and makes jobs that ask a finished model."""
