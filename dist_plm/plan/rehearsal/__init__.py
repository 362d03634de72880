"""Rehearses ranks of a job that is not there: a step of each without values, and what they say to one another."""
