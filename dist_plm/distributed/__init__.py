"""The device a rank computes on, its place in the process grid, its process groups and their collectives.

The import has one effect: Megatron-core's warnings about absent optional libraries are silenced. A package that imports
Megatron-core imports this one first.
"""

from dist_plm.distributed.quiet import quiet_megatron_imports

quiet_megatron_imports()
