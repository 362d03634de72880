"""Compiles the attention kernels for a GPU that need not be there, and prints what each takes of its shared memory as JSON.

A program of its own, as kernels of tests run in Triton's interpreter: `python -m tests.models.kernels.compiled 86 bf16 128`.
"""

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dist_plm.models.kernels.gpu import attention_kernels
from dist_plm.models.kernels.gpu.attention_tiles import KERNELS, Tile, fitting, padded

#: What an SM lends one block, by compute capability.
LIMITS = {75: 65_536, 80: 166_912, 86: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_OF_KERNELS = dict(zip(KERNELS, ("attend", "to_queries", "to_keys_and_values"), strict=True))
_POINTERS = {"keys": "*i64", "ranges": "*i32", "seen_by": "*i32", "lse": "*fp32", "delta": "*fp32"}
_TOKENS = {"query", "key", "value", "bias", "out", "grad"}
_UNALIGNED = {"threshold", "first_row", "heads", "bias_k"}


def chosen(capability: int, name: str, head_size: int) -> dict[str, Tile | None]:
    itemsize, limit = TYPES[name].itemsize, LIMITS[capability]
    return {kernel: fitting(kernel, head_size, itemsize, capability // 10, limit) for kernel in KERNELS}


def taken(kernel: str, tile: Tile, capability: int, name: str, head_size: int, *, biased: bool) -> int:
    """Compiles one kernel, with dropout, and gives its bytes of shared memory."""
    function = getattr(attention_kernels, _OF_KERNELS[kernel])
    constants: dict[str, Any] = {"BIASED": biased, "CAUSAL": False, "RANGED": False, "DROPS": True, "EVEN": True}
    constants |= {"PRECISION": "ieee", "BLOCK_Q": tile.queries, "BLOCK_K": tile.keys, "BLOCK_D": padded(head_size)}
    constants |= {"STORES": biased} if kernel == "backward_queries" else {}
    types, aligned = {}, {}
    for number, argument in enumerate(function.arg_names):
        if argument in constants:
            types[argument] = "constexpr"
            continue
        if argument in _TOKENS or argument.startswith("grad_"):
            types[argument] = f"*{name}"
        else:
            types[argument] = _POINTERS.get(argument, "fp32" if argument in ("scale", "factor") else "i32")
        if types[argument] != "fp32" and argument not in _UNALIGNED:
            aligned[(number,)] = [["tt.divisibility", 16]]
    places = {(function.arg_names.index(argument),): value for argument, value in constants.items()}
    source = ASTSource(fn=function, signature=types, constexprs=places, attrs=aligned)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled: Any = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return compiled.metadata.shared


def main(capability: int, name: str, head_size: int) -> None:
    found = {
        kernel: [taken(kernel, tile, capability, name, head_size, biased=biased) for biased in (False, True)]
        for kernel, tile in chosen(capability, name, head_size).items()
        if tile is not None
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
