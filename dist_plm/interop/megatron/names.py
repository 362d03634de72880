"""Tells what each tensor of a Megatron GPT is by its name: Megatron-core's (with PyTorch's or Transformer Engine's
norms), and those of Megatron-LM before it, which Megatron-DeepSpeed kept."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Fusion = Literal["none", "qkv", "gated", "vocabulary"]
_KINDS = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Meaning:
    """Says what a tensor of a Megatron GPT is.

    Args:
        name: canonical name, with `{part}` where several tensors are fused.
        split_dim: dim cut over tensor ranks, None where each holds the same values.
        fusion: what stands in the place of `{part}`; `gated` may turn out to be a plain projection, by its size.
    """

    name: str
    split_dim: int | None = None
    fusion: Fusion = "none"


def _affine(ours: str, theirs: Sequence[str]) -> dict[str, Meaning]:
    return {f"{name}{kind}": Meaning(f"{ours}.{kind}") for name in theirs for kind in _KINDS}


def _column(ours: str, theirs: Sequence[str], fusion: Fusion) -> dict[str, Meaning]:
    return {f"{name}.{kind}": Meaning(f"{ours}.{kind}", 0, fusion) for name in theirs for kind in _KINDS}


def _row(ours: str, theirs: Sequence[str]) -> dict[str, Meaning]:
    split = {"weight": 1, "bias": None}
    return {f"{name}.{kind}": Meaning(f"{ours}.{kind}", dim) for name in theirs for kind, dim in split.items()}


_OUTSIDE = {
    "embedding.word_embeddings.weight": Meaning("embedding.word.weight", 0, "vocabulary"),
    "embedding.position_embeddings.weight": Meaning("embedding.position.weight"),
    "output_layer.weight": Meaning("output.weight", 0, "vocabulary"),
    **_affine("final_norm", ["final_layernorm.", "final_norm."]),
}
_IN_LAYER = {
    **_affine("attention_norm", ["input_layernorm.", "self_attention.linear_qkv.layer_norm_"]),
    **_affine("mlp_norm", ["pre_mlp_layernorm.", "post_attention_layernorm.", "mlp.linear_fc1.layer_norm_"]),
    **_column("attention.{part}", ["self_attention.linear_qkv", "self_attention.query_key_value"], "qkv"),
    **_column("attention.{part}", ["attention.query_key_value"], "qkv"),
    **_row("attention.output", ["self_attention.linear_proj", "self_attention.dense", "attention.dense"]),
    **_column("mlp.{part}", ["mlp.linear_fc1", "mlp.dense_h_to_4h"], "gated"),
    **{f"mlp.linear_fc1.{kind}_w": Meaning(f"mlp.gate.{kind}", 0) for kind in _KINDS},
    **{f"mlp.linear_fc1.{kind}_v": Meaning(f"mlp.up.{kind}", 0) for kind in _KINDS},
    **_row("mlp.down", ["mlp.linear_fc2", "mlp.dense_4h_to_h"]),
}
_STACK = re.compile(r"(?:decoder|encoder|transformer)\.(.+)")
_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


def meaning_of(stored: str) -> Meaning | None:
    """Reads the meaning of a tensor's name, in which layers are numbered; None where it is not known."""
    bare = stored.removeprefix("module.").removeprefix("language_model.")
    stack = _STACK.fullmatch(bare)
    bare = stack[1] if stack else bare
    layer = _LAYER.fullmatch(bare)
    if layer is None:
        return _OUTSIDE.get(bare)
    found = _IN_LAYER.get(layer[2])
    return found and Meaning(f"layers.{layer[1]}.{found.name}", found.split_dim, found.fusion)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Holds the sizes that the tensors' shapes do not tell.

    Args:
        kv_heads: groups of query heads that share a key and a value.
        vocab_size: rows that stand for a token; those after them are padding.
    """

    kv_heads: int
    vocab_size: int


def logical_shapes(
    meaning: Meaning, shape: Sequence[int], sizes: Sizes, *, ranks: int, gated: bool, head_rows: int
) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes of the logical tensors in a stored one.

    Args:
        shape: of what one of `ranks` tensor ranks holds.
        gated: the feed-forward half is gated.
        head_rows: of all query heads together, over all ranks.
    """
    whole = [n * ranks if dim == meaning.split_dim else n for dim, n in enumerate(shape)]
    rest = tuple(whole[1:])
    if meaning.fusion == "vocabulary":
        return {meaning.name: (sizes.vocab_size, *rest)}
    if meaning.fusion == "qkv":
        kv_rows = (whole[0] - head_rows) // 2
        rows = {"query": head_rows, "key": kv_rows, "value": kv_rows}
    elif meaning.fusion == "gated":
        rows = {"gate": whole[0] // 2, "up": whole[0] // 2} if gated else {"up": whole[0]}
    else:
        return {meaning.name: tuple(whole)}
    return {meaning.name.format(part=part): (count, *rest) for part, count in rows.items()}


def logical_tensors(
    meaning: Meaning, held: Sequence[Tensor], shapes: Mapping[str, tuple[int, ...]], sizes: Sizes
) -> dict[str, Tensor]:
    """The logical tensors of `shapes` from what the tensor ranks hold.

    Queries, keys and values are fused by group: the query heads of one, then its key, then its value (Megatron-core
    `Attention.get_query_key_value_tensors`), on each rank those of its groups. Gated projections are the gate's rows and
    then the others, on each rank its share of both (`apply_swiglu_sharded_factory`).
    """
    if meaning.split_dim is None:
        return dict.fromkeys(shapes, held[0])
    if meaning.fusion == "qkv":
        split = [_ungroup(part, [shape[0] for shape in shapes.values()], sizes.kv_heads // len(held)) for part in held]
    else:
        split = [part.chunk(len(shapes)) for part in held]
    joined = [torch.cat(parts, dim=meaning.split_dim) for parts in zip(*split, strict=True)]
    if meaning.fusion == "vocabulary":
        joined = [part[: sizes.vocab_size] for part in joined]
    return dict(zip(shapes, joined, strict=True))


def _ungroup(fused: Tensor, rows: Sequence[int], groups: int) -> list[Tensor]:
    """Query, key and value from [groups x (query heads, key, value) x head size, ...]."""
    total = sum(rows)
    grouped = fused.unflatten(0, (groups, -1))
    shares = [grouped.shape[1] * count // total for count in rows]
    return [part.flatten(0, 1) for part in grouped.split(shares, dim=1)]
