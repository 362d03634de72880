"""Says how a model's work is cut: a chain of layers into the stages of a pipeline, and the loss into chunks of tokens."""

#: Of one chunk's logits, were they fp32. Each chunk reads and writes the gradient of the weight once, so few are better.
LOSS_CHUNK_BYTES = 2**27


def layers_of_chunk(num_layers: int, stage: int, stages: int, chunk: int, chunks: int) -> range:
    """Layers that model chunk `chunk` of pipeline rank `stage` holds: chunks go round the ranks (Narayanan et al. 2021,
    section 2.2), so chunk 0 of every rank comes before chunk 1 of any.

    Args:
        stages, chunks: number of pipeline ranks, and of chunks each holds; their product divides `num_layers`.
    """
    each = num_layers // (stages * chunks)
    first = (chunk * stages + stage) * each
    return range(first, first + each)
