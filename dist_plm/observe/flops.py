"""Parameters and model FLOPs of a transformer decoder, counted from its configuration.

Model FLOPs are those the mathematics needs, whatever the implementation does: a multiply-add is two, the backward pass
is twice the forward, recomputed activations do not count, and attention counts every pair of positions although a
causal mask spares half. This is the convention of PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B) and of
Megatron-LM (Narayanan et al. 2021, arXiv 2104.04473, equation 3 with 72 for 96, as nothing is recomputed), so the
utilisation compares with what they and most others publish. Norms, softmax and activations are left out, as there.

The model has to be resolved: no size in it may still be None.
"""

from dist_plm.config.schema import ModelConfig


def num_parameters(model: ModelConfig, *, vocab_size: int | None = None) -> int:
    """Trainable parameters of the whole model, without the padding of the vocabulary.

    Args:
        vocab_size: counts with this vocabulary in place of the model's, say the padded one.
    """
    vocab = _known(model.vocab_size if vocab_size is None else vocab_size, "vocab_size")
    norm = model.hidden * (2 if model.norm == "layernorm" else 1)
    layer = _layer_matrix_size(model) + (_layer_bias_size(model) if model.bias else 0) + 2 * norm
    embeddings = vocab * model.hidden * (1 if model.tied_embeddings else 2)
    if model.position == "learned":
        embeddings += _known(model.max_positions, "max_positions") * model.hidden
    return embeddings + model.layers * layer + norm


def flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """Model FLOPs of the forward and backward pass for one token of a sequence of `sequence_length` tokens."""
    attention = 4 * sequence_length * model.heads * _known(model.head_size, "head_size")  # scores, then weighted sum
    logits = 2 * model.hidden * _known(model.vocab_size, "vocab_size")
    forward = model.layers * (2 * _layer_matrix_size(model) + attention) + logits
    return 3 * forward


def flops_per_step(model: ModelConfig, sequence_length: int, num_samples: int) -> int:
    """Model FLOPs of one optimizer step over `num_samples` sequences, on all devices together."""
    return num_samples * sequence_length * flops_per_token(model, sequence_length)


def utilisation(flops: float, seconds: float, peak_tflops: float | None) -> float | None:
    """Model FLOPs utilisation (PaLM, appendix B): what was computed over what could have been, from 0 to 1.

    Args:
        flops: model FLOPs done in `seconds`.
        peak_tflops: of all devices together, in 10^12 FLOP/s; None where unknown, and then the result is None.
    """
    if peak_tflops is None or seconds <= 0:
        return None
    return flops / seconds / (peak_tflops * 1e12)


def _layer_matrix_size(model: ModelConfig) -> int:
    """Entries of one layer's matrices: queries, keys and values, output projection, and the feed-forward network."""
    head_size, ffn = _known(model.head_size, "head_size"), _known(model.ffn, "ffn")
    queries = model.hidden * model.heads * head_size
    keys_and_values = 2 * model.hidden * _known(model.kv_heads, "kv_heads") * head_size
    return 2 * queries + keys_and_values + _num_ffn_matrices(model) * model.hidden * ffn


def _layer_bias_size(model: ModelConfig) -> int:
    head_size, ffn = _known(model.head_size, "head_size"), _known(model.ffn, "ffn")
    attention = (model.heads + 2 * _known(model.kv_heads, "kv_heads")) * head_size + model.hidden
    return attention + (_num_ffn_matrices(model) - 1) * ffn + model.hidden


def _num_ffn_matrices(model: ModelConfig) -> int:
    return 3 if model.activation == "swiglu" else 2


def _known(size: int | None, name: str) -> int:
    assert size is not None, f"model.{name} has to be resolved before anything is counted"
    return size
