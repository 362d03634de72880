"""What every layer must know of a microbatch besides its hidden states, and the keys its dropout draws from.

It travels as one argument through the layers, so activation recomputation sees the values of its own microbatch: under a
pipeline schedule another microbatch has run in between.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class SequenceContext:
    """Args:
    causal: a token attends to itself and to what stands before it.
    documents: [B, S] number of the document each token belongs to, non-decreasing along S, or None for no boundaries.
    rotary: (cos, sin), each [1 or B, S, D], or None.
    samples: number of each of the B samples within the run: dropout is keyed by it.
    seed: of the run.
    """

    causal: bool
    documents: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    samples: tuple[int, ...] = ()
    seed: int = 0


Batch = dict[str, Tensor]
