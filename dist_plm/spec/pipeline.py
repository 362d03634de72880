"""Says how a model's work is cut: a chain of layers into the stages of a pipeline, and the loss into chunks of tokens."""

import math
from collections.abc import Sequence

#: Of one chunk's logits, were they fp32. Each chunk reads and writes the gradient of the weight once, so few are better.
LOSS_CHUNK_BYTES = 2**27
#: Rows that a GPU's matrix product takes together.
_TILE = 128


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


def spread_layers(num_layers: int, stages: int) -> tuple[int, ...]:
    """Numbers of layers of each stage that differ by one at most, the larger first."""
    each, left = divmod(num_layers, stages)
    return tuple(each + (stage < left) for stage in range(stages))


def balanced_layers(num_layers: int, stages: int, head: float) -> tuple[int, ...]:
    """Numbers of layers of each stage, first to last, such that the slowest has as little to do as it can.

    Args:
        stages: no more than `num_layers`.
        head: work of the last stage besides its layers, in layers. Where it is more than that of any other stage, the last
            holds no layer.
    """
    if stages == 1:
        return (num_layers,)

    def slowest(last: int) -> float:
        return max(math.ceil((num_layers - last) / (stages - 1)), last + head)

    # Where layers could be cut in pieces all stages would have as much to do.
    level = math.floor((num_layers - head * (stages - 1)) / stages)
    most = num_layers - stages + 1
    near = {min(max(0, level + more), most) for more in (-1, 0, 1, 2)}
    last = min(near, key=lambda held: (slowest(held), -held))
    return *spread_layers(num_layers - last, stages - 1), last


def loss_chunk_rows(tokens: int, width: int, chunk_bytes: int = LOSS_CHUNK_BYTES) -> int:
    """Counts the tokens of each chunk but the last, whose logits have `width` columns: as even as whole tiles of a GPU allow.
    A short chunk at the end reads and writes the gradient of the weight like any other."""
    most = max(1, chunk_bytes // (4 * width))
    most = most // _TILE * _TILE if most > _TILE else most
    even = -(-tokens // max(1, -(-tokens // most)))
    return max(1, -(-even // _TILE) * _TILE if most > _TILE else even)
