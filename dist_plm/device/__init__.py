"""Floor 1: the device a rank computes on, and the CPU standing in for CUDA.

Importing this folder, and nothing else it does, silences what Megatron-core says on import where Transformer Engine and
Apex are absent (`quiet`); packages that import Megatron-core import this one first.
"""

from dist_plm.device.quiet import quiet_megatron_imports

quiet_megatron_imports()
