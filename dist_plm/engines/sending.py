"""Brings what a step needs from the host to the device, which is not waited for."""

import torch

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.device import sent
from dist_plm.models.layers.heads import predicted_positions


def sent_batch(batch: Batch, device: torch.device, *, positions: bool) -> Batch:
    """Gives a microbatch on the device, but for `samples`: they key the dropout generators, on the host.

    Args:
        positions: whether the model predicts some tokens alone; then `positions_predicted` are told, which on the device could
            not be found without waiting.
    """
    if positions:
        batch = {**batch, "positions_predicted": predicted_positions(batch["labels"])}
    return {name: values if name == "samples" else sent(values, device) for name, values in batch.items()}
