"""Checks and submits jobs that ask a finished model, and tells of jobs of all kinds."""
