"""Names what a microbatch is once it has left the loader."""

import torch

#: The arrays of a microbatch by name, as tensors on the rank's device; objectives/base.py has the table of them.
Batch = dict[str, torch.Tensor]
