"""Parameters and model FLOPs of a transformer, counted from its configuration.

Model FLOPs are those the mathematics needs, whatever the implementation does: a multiply-add is two, the backward pass
is twice the forward, recomputed activations do not count, and attention counts every pair of positions although a
causal mask spares half. This is the convention of PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B) and of
Megatron-LM (Narayanan et al. 2021, arXiv 2104.04473, equation 3 with 72 for 96, as nothing is recomputed), so the
utilisation compares with what they and most others publish. Norms, softmax and activations are left out, as there.

The model has to be resolved: no size in it may still be None.
"""

from dist_plm.spec.derived import ENCODER_DECODERS, ENCODERS, generator_of
from dist_plm.spec.schema import ModelConfig


def num_parameters(model: ModelConfig, *, vocab_size: int | None = None) -> int:
    """Trainable parameters of the whole model, without the padding of the vocabulary. Those of ELECTRA are of both halves.

    Args:
        vocab_size: counts with this vocabulary in place of the model's, say the padded one.
    """
    vocab = _known(model.vocab_size if vocab_size is None else vocab_size, "vocab_size")
    size = model.embedding_size or model.hidden
    total = vocab * size * (1 if model.tied_embeddings else 2) + _embedding_tables_size(model, size)
    if model.family == "gpt":
        return total + _stack_size(model, model.layers)
    if model.family in ENCODER_DECODERS:
        decoder = _stack_size(model, _known(model.decoder_layers, "decoder_layers"), cross=True)
        return total + _stack_size(model, model.layers) + decoder
    transform = _dense(model.hidden, size)
    if model.family == "electra":
        generator = generator_of(model)
        transform = _dense(generator.hidden, size)
        total += _projection_size(generator) + _stack_size(generator, generator.layers)
        total += _projection_size(model) + _dense(model.hidden, model.hidden) + _dense(model.hidden, 1)
    elif model.pair_head:
        total += _dense(model.hidden, model.hidden) + _dense(model.hidden, 2)
    return total + _stack_size(model, model.layers) + transform + _norm_size(model, size) + vocab


def flops_per_step(
    model: ModelConfig,
    sequence_length: int,
    num_samples: int,
    *,
    predicted: float = 1.0,
    target_length: int | None = None,
) -> int:
    """Model FLOPs of one optimizer step over `num_samples` sequences, on all devices together.

    Args:
        predicted: share of the tokens whose logits are needed; the masked ones of a masked language model.
        target_length: tokens that an encoder-decoder writes for each sequence; as many as it reads if None.
    """
    length = sequence_length
    logits = 2 * _known(model.vocab_size, "vocab_size") * (model.embedding_size or model.hidden)
    if model.family in ENCODER_DECODERS:
        target = length if target_length is None else target_length
        layers = _known(model.decoder_layers, "decoder_layers")
        kv = 2 * 2 * model.hidden * _known(model.kv_heads, "kv_heads") * _known(model.head_size, "head_size")
        decoder = target * (_layer_flops(model, target) + _cross_flops(model, length)) + length * kv
        sample = length * model.layers * _layer_flops(model, length) + layers * decoder + target * logits
        return 3 * num_samples * sample
    tokens = model.layers * _layer_flops(model, length) + predicted * logits
    if model.family in ENCODERS:
        network = generator_of(model) if model.family == "electra" else model
        tokens += predicted * 2 * network.hidden * (model.embedding_size or model.hidden)
    if model.family == "electra":
        generator = generator_of(model)
        tokens += generator.layers * _layer_flops(generator, length) + 2 * model.hidden * (model.hidden + 1)
        tokens += 2 * sum(_projection_matrix_size(network) for network in (generator, model))
    if model.pair_head:
        tokens += 2 * model.hidden * (model.hidden + 2) / length
    return round(3 * num_samples * length * tokens)


def flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """Model FLOPs of the forward and backward pass for one token of a sequence of `sequence_length` tokens, where a model
    of one stack predicts every token, and an encoder-decoder writes as many as it reads."""
    return flops_per_step(model, sequence_length, 1) // sequence_length


def utilisation(flops: float, seconds: float, peak_tflops: float | None) -> float | None:
    """Model FLOPs utilisation (PaLM, appendix B): what was computed over what could have been, from 0 to 1.

    Args:
        flops: model FLOPs done in `seconds`.
        peak_tflops: of all devices together, in 10^12 FLOP/s; None where unknown, and then the result is None.
    """
    if peak_tflops is None or seconds <= 0:
        return None
    return flops / seconds / (peak_tflops * 1e12)


def _embedding_tables_size(model: ModelConfig, size: int) -> int:
    """Positions, segments and norm of the embedding, and T5's two tables of relative positions."""
    total = model.segments * size
    if model.position == "learned":
        total += (_known(model.max_positions, "max_positions") + model.position_offset) * size
    elif model.position == "relative":
        total += 2 * model.relative_buckets * model.heads
    if model.family in ENCODERS and model.norm_placement == "post":
        total += _norm_size(model, size)
    return total


def _stack_size(model: ModelConfig, layers: int, *, cross: bool = False) -> int:
    """Layers, and the norm after the last where norms come first."""
    norm = _norm_size(model, model.hidden)
    layer = _layer_matrix_size(model) + (_layer_bias_size(model) if model.bias else 0) + 2 * norm
    if cross:
        layer += _attention_matrix_size(model) + (_attention_bias_size(model) if model.bias else 0) + norm
    return layers * layer + (norm if model.norm_placement == "pre" else 0)


def _projection_size(network: ModelConfig) -> int:
    """From shared embeddings to one of ELECTRA's networks, where their sizes differ."""
    matrix = _projection_matrix_size(network)
    return matrix + network.hidden if matrix else 0


def _projection_matrix_size(network: ModelConfig) -> int:
    size = _known(network.embedding_size, "embedding_size")
    return size * network.hidden if size != network.hidden else 0


def _dense(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _norm_size(model: ModelConfig, size: int) -> int:
    return size * (2 if model.norm == "layernorm" else 1)


def _layer_flops(model: ModelConfig, length: int) -> int:
    """Forward pass of one token through one layer: matrices, scores and weighted sum."""
    return 2 * _layer_matrix_size(model) + 4 * length * model.heads * _known(model.head_size, "head_size")


def _cross_flops(model: ModelConfig, length: int) -> int:
    """Forward pass of one decoder token through attention to `length` tokens, whose keys and values are there."""
    width = model.heads * _known(model.head_size, "head_size")
    return 2 * 2 * model.hidden * width + 4 * length * width


def _layer_matrix_size(model: ModelConfig) -> int:
    """Entries of one layer's matrices: attention and the feed-forward network."""
    return _attention_matrix_size(model) + _num_ffn_matrices(model) * model.hidden * _known(model.ffn, "ffn")


def _attention_matrix_size(model: ModelConfig) -> int:
    """Queries, keys and values, output projection."""
    head_size = _known(model.head_size, "head_size")
    queries = model.hidden * model.heads * head_size
    return 2 * queries + 2 * model.hidden * _known(model.kv_heads, "kv_heads") * head_size


def _layer_bias_size(model: ModelConfig) -> int:
    return _attention_bias_size(model) + (_num_ffn_matrices(model) - 1) * _known(model.ffn, "ffn") + model.hidden


def _attention_bias_size(model: ModelConfig) -> int:
    return (model.heads + 2 * _known(model.kv_heads, "kv_heads")) * _known(model.head_size, "head_size") + model.hidden


def _num_ffn_matrices(model: ModelConfig) -> int:
    return 3 if model.activation in ("swiglu", "geglu") else 2


def _known(size: int | None, name: str) -> int:
    assert size is not None, f"model.{name} has to be resolved before anything is counted"
    return size
