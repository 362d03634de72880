"""Runs on clusters: what a batch script says, how it is submitted and followed, how its nodes meet."""
