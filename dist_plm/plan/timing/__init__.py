"""Estimates how long a step takes, from what a GPU and a network reach of their peaks."""
