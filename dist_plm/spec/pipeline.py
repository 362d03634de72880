"""Says how a model's work is cut: a chain of layers into the stages of a pipeline, and the loss into chunks of tokens."""

from collections.abc import Sequence

#: Of one chunk's logits, were they fp32. Each chunk reads and writes the gradient of the weight once, so few are better.
LOSS_CHUNK_BYTES = 2**27


def layers_of_chunk(
    num_layers: int, stage: int, stages: int, chunk: int, chunks: int, stage_layers: Sequence[int] | None = None
) -> range:
    """Layers that model chunk `chunk` of pipeline rank `stage` holds: chunks go round the ranks (Narayanan et al. 2021,
    section 2.2), so chunk 0 of every rank comes before chunk 1 of any.

    Args:
        stages, chunks: number of pipeline ranks, and of chunks each holds.
        stage_layers: numbers of layers of the chunks, in the order of the model; as many each if None, in which case the
            product of `stages` and `chunks` divides `num_layers`.
    """
    place = chunk * stages + stage
    if stage_layers is None:
        stage_layers = [num_layers // (stages * chunks)] * (stages * chunks)
    first = sum(stage_layers[:place])
    return range(first, first + stage_layers[place])


def balanced_layers(num_layers: int, stages: int, head: float) -> tuple[int, ...]:
    """Numbers of layers of each stage, first to last, such that the slowest has as little to do as it can.

    Args:
        stages: no more than `num_layers`.
        head: work of the last stage besides its layers, in layers.
    """
    held, work = [1] * stages, [1.0] * stages
    work[-1] += head
    for _ in range(num_layers - stages):
        least = min(range(stages), key=work.__getitem__)
        held[least] += 1
        work[least] += 1
    return tuple(held)
