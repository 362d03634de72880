"""The device a rank computes on, its place in the process grid, its process groups and their collectives.

The import has one effect: Megatron-core will be imported leanly, and without warnings that say nothing to a user. A package
that imports Megatron-core imports this one first.
"""

from dist_plm.distributed.lean_imports import make_megatron_lean

make_megatron_lean()
