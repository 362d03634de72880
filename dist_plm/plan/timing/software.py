"""Describes how programs differ in what they fuse and overlap, so that runs of others can be set beside a plan."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """Says what a program does with a configuration.

    Args:
        fused_attention: scores are never written to memory.
        fused_loss: logits are made and used up in chunks.
        logits: bytes that each logit takes at the peak where they are not: its own, its fp32 copy, its gradient.
        whole_logits: tensor ranks gather them.
        passes: how often element-wise kernels read and write what compiled ones do once.
        overlaps_tensor: share of the collectives of tensor parallelism that hides behind products.
        splits_messages: stages send each tensor rank's share and gather it afterwards.
        fused_projections: matrices that multiply the same input are one.
        recomputes_half: recomputes every second product of a layer and what lies between them.
        fused_sums: products add the gradients of weights to their sums themselves.
        exchanges_heads: context ranks exchange tokens for heads, where others send keys and values round a ring.
        new_attention: attention is written for Hopper's and Blackwell's own instructions, where others run Ampere's.
    """

    fused_attention: bool = True
    fused_loss: bool = True
    logits: int = 12
    whole_logits: bool = False
    passes: float = 1.0
    overlaps_tensor: float = 0.0
    splits_messages: bool = False
    fused_projections: bool = True
    recomputes_half: bool = False
    fused_sums: bool = False
    new_attention: bool = False
    exchanges_heads: bool = False


#: This program.
OURS = Software(exchanges_heads=True)
#: Megatron-LM and what NVIDIA builds upon it, with Transformer Engine's overlapped products.
MEGATRON = Software(
    fused_loss=False, passes=1.6, overlaps_tensor=0.7, splits_messages=True, fused_sums=True, new_attention=True
)
#: Programs of 2022 and before.
UNFUSED = Software(fused_attention=False, fused_loss=False, splits_messages=True, fused_sums=True)
#: PyTorch's FSDP2 with torch.compile, as in torchtitan.
FSDP2 = Software(fused_loss=False, fused_projections=False)
