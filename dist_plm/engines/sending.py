"""Brings what a step needs from the host to the device, which is not waited for."""

from collections.abc import Sequence

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.device import sent
from dist_plm.engines.engine_settings import EngineSettings
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.layers.pretraining_heads import predicted_positions


def pass_shape(microbatches: Sequence[Batch], settings: EngineSettings) -> tuple[int, int]:
    """Tells rows and length of the microbatches of a step, which the stages of a pipeline have to know of each other: rows may
    be shorter than data.sequence_length, all of a step alike. Without a pipeline nobody asks, and nothing is drawn."""
    if settings.parallel.pipeline == 1:
        return settings.train.micro_batch, settings.sequence_length
    shapes = {tuple(batch["tokens"].shape) for batch in microbatches}
    assert len(shapes) == 1, f"microbatches of one step are of different shapes: {shapes}"
    ((rows, length),) = shapes
    return rows, length


def sent_batch(batch: Batch, chunk: ModelChunk) -> Batch:
    """Gives a microbatch on a chunk's device, but for `samples`: they key the dropout generators, on the host.

    Where the model predicts some tokens alone, `positions_predicted` are told, which on the device could not be found without
    waiting.
    """
    shared = chunk.shared
    if chunk.predicts_some and "labels" in batch:
        batch = {**batch, "positions_predicted": predicted_positions(shared.own(batch["labels"]))}
    return {name: values if name == "samples" else sent(values, shared.device) for name, values in batch.items()}
