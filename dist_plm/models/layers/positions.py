"""Tables of positions: sinusoidal (Vaswani et al. 2017, section 3.5) and rotary (Su et al. 2021, equation 34)."""

import torch
from torch import Tensor


def sinusoidal_table(length: int, hidden: int) -> Tensor:
    """Fixed position embeddings [length, hidden]: sines in the even columns, cosines in the odd ones."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, hidden, 2, dtype=torch.float64) / hidden)
    table = torch.zeros(length, hidden, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)[:, : hidden // 2]
    return table.float()


def rotary_tables(positions: Tensor, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotation angles, in the half-split layout of GPT-NeoX and Llama.

    Args:
        positions: [1 or B, S] integer positions.
        head_size: D, even.
    Returns:
        (cos, sin), each [1 or B, S, D] fp32.
    """
    exponent = torch.arange(0, head_size, 2, dtype=torch.float32, device=positions.device) / head_size
    angles = positions[..., None].float() * base**-exponent
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates queries or keys [B, A, S, D] by their positions; computed in fp32, returned in the type of `x`."""
    cos, sin = (table[:, None] for table in tables)
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x.float() * cos + turned * sin).to(x.dtype)
