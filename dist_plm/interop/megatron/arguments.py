"""The model that Megatron-LM's command line describes. The flags are those of `megatron/training/arguments.py`."""

from collections.abc import Mapping
from typing import Any

from dist_plm.spec.families.gpt import GPTConfig
from dist_plm.spec.schema import ModelConfig

#: Flags under which tensors of the usual names and shapes mean something else here, and the values that do not.
_OTHERWISE: dict[str, tuple[Any, ...]] = {
    "apply_layernorm_1p": (False, None),  # norms are stored less one
    "rotary_interleaved": (False, None),
    "rotary_percent": (1.0, None),
    "rotary_seq_len_interpolation_factor": (1, 1.0, None),
    "use_rope_scaling": (False, None),
    "squared_relu": (False, None),
    "quick_geglu": (False, None),
    "apply_residual_connection_post_layernorm": (False, None),
    "window_size": (None,),
}
_POSITIONS = {"learned_absolute": "learned", "rope": "rotary", "none": "none"}


def meant_otherwise(settings: Mapping[str, Any]) -> list[str]:
    """The settings under which this program would compute something else with the same tensors."""
    found = [f"{n}={settings[n]}" for n, usual in _OTHERWISE.items() if n in settings and settings[n] not in usual]
    position = settings.get("position_embedding_type", "learned_absolute")
    return found if position in _POSITIONS else [*found, f"position_embedding_type={position}"]


def megatron_model(settings: Mapping[str, Any], vocab_size: int) -> ModelConfig | None:
    """The GPT of these settings; None where they do not tell.

    GELU is its tanh approximation where bias and activation are fused, as by default on GPUs (Megatron-core
    `fusions/fused_bias_gelu.py`).
    """
    needed = ("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size", "normalization")
    if any(settings.get(name) is None for name in needed):
        return None
    heads, bias = settings["num_attention_heads"], bool(settings.get("add_bias_linear", True))
    grouped = settings.get("group_query_attention") and settings.get("num_query_groups")
    rotary = settings.get("use_rotary_position_embeddings")
    position = "rope" if rotary else settings.get("position_embedding_type", "learned_absolute")
    fused = settings.get("bias_gelu_fusion", True) and bias
    return GPTConfig(
        layers=settings["num_layers"],
        hidden=settings["hidden_size"],
        heads=heads,
        kv_heads=grouped or heads,
        head_size=settings.get("kv_channels") or settings["hidden_size"] // heads,
        ffn=settings["ffn_hidden_size"],
        vocab_size=vocab_size,
        max_positions=settings.get("max_position_embeddings"),
        position=_POSITIONS[position],  # pyright: ignore[reportArgumentType]
        rotary_base=float(settings.get("rotary_base") or 10000.0),
        activation="swiglu" if settings.get("swiglu") else "gelu_tanh" if fused else "gelu",
        norm="rmsnorm" if settings["normalization"] == "RMSNorm" else "layernorm",
        norm_eps=settings.get("norm_epsilon") or settings.get("layernorm_epsilon") or 1e-5,
        bias=bias,
        tied_embeddings=not settings.get("untie_embeddings_and_output_weights"),
    )
