"""Floor 1: the device a rank computes on, and the CPU standing in for CUDA.

The import has one effect: Megatron-core's warnings about absent optional libraries are silenced. A package that imports
Megatron-core imports this one first.
"""

from dist_plm.device.quiet import quiet_megatron_imports

quiet_megatron_imports()
