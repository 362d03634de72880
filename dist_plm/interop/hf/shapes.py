"""The shapes of logical tensors, from a model's sizes and their names."""

from dist_plm.spec.derived import generator_of
from dist_plm.spec.schema import ModelConfig


def logical_shape(model: ModelConfig, name: str) -> tuple[int, ...]:
    """The shape of the logical tensor `name`.

    Args:
        model: finalised.
    """
    inner = name.startswith(("generator.", "transform.")) and model.family == "electra"
    network = generator_of(model) if inner else model
    *path, tensor, kind = name.split(".")
    outputs, inputs = _sizes(network, ".".join(path), tensor)
    return (outputs,) if kind == "bias" or inputs is None else (outputs, inputs)


def _sizes(model: ModelConfig, path: str, tensor: str) -> tuple[int, int | None]:
    """Outputs and inputs of a matrix; of what is no matrix, its length and None."""
    hidden, vocabulary, width = model.hidden, _known(model.vocab_size), model.embedding_size or model.hidden
    heads, kv_heads = (_known(model.head_size) * count for count in (model.heads, _known(model.kv_heads)))
    if path == "embedding":
        rows = {"word": vocabulary, "segment": model.segments, "norm": width}
        if tensor == "position":
            return _known(model.max_positions) + model.position_offset, width
        return rows[tensor], None if tensor == "norm" else width
    if path == "transform":
        return width, hidden if tensor == "dense" else None
    if path.endswith(("attention", "cross")):
        return {"query": (heads, hidden), "output": (hidden, heads)}.get(tensor, (kv_heads, hidden))
    if path.endswith("mlp"):
        return (hidden, _known(model.ffn)) if tensor == "down" else (_known(model.ffn), hidden)
    if tensor == "relative":
        return model.relative_buckets, model.heads
    if tensor == "output":
        return vocabulary, hidden
    if tensor.endswith("norm"):
        return hidden, None
    last = {"project": (hidden, width), "classifier": (2 if path == "pair" else 1, hidden)}
    return last.get(tensor, (hidden, hidden))


def _known(size: int | None) -> int:
    assert size is not None
    return size
