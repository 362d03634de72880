"""Takes microbatches forward and backward through the model chunks of a rank."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from torch import Tensor, nn

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.groups import Groups
from dist_plm.engines.engine_settings import EngineSettings
from dist_plm.engines.loss_terms import LossTerms
from dist_plm.engines.measuring.step_clock import StepClock
from dist_plm.engines.predictions import Collect
from dist_plm.engines.sending import pass_shape, sent_batch
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.loss_sums import Scores
from dist_plm.objectives.base import LossTerm


class Passes:
    """Makes the passes of a step by Megatron-core's schedule for the process grid, and what is minimised from their scores.

    Args:
        chunks: of this rank, bare or wrapped by the engine.
        bare: the first of them without its wrapper.
        losses: the parts of the loss by name, as the objective tells them.
    """

    def __init__(
        self,
        settings: EngineSettings,
        groups: Groups,
        device: torch.device,
        chunks: Sequence[nn.Module],
        bare: ModelChunk,
        losses: Mapping[str, LossTerm],
    ) -> None:
        self.terms, self.clock = LossTerms(losses, groups, device), StepClock(device)
        self._settings, self._groups, self._device = settings, groups, device
        self._chunks, self._bare = list(chunks), bare
        self._messages = P2PCommunicator(pp_group=groups.pipeline, config=bare.config)
        self._schedule = get_forward_backward_func(groups.grid.pipeline, len(chunks) if len(chunks) > 1 else None)

    def scheduled(
        self, microbatches: Sequence[Batch], scales: Tensor, collect: Collect | None, *, forward_only: bool
    ) -> list[Tensor]:
        """Runs the schedule. Returns sums of loss and correct labels of each microbatch, [parts, 2] each, on the last stage;
        nothing on others. Collective over the ranks of a pipeline.

        Args:
            scales: [parts], the factors of `LossTerms.scales`.
            collect: is given the scores of each microbatch.
        """
        micro_batch, length = pass_shape(microbatches, self._settings)
        outputs = self._schedule(
            forward_step_func=partial(self._forward, scales, collect),
            # Drawn as needed, so that what the microbatches raise ends a step in its middle; several chunks of a
            # pipeline each go through all of them.
            data_iterator=list(itertools.tee(map(self.to_device, microbatches), len(self._chunks))),
            model=self._chunks,
            num_microbatches=len(microbatches),
            seq_length=length,
            micro_batch_size=micro_batch,
            forward_only=forward_only,
            p2p_communicator=self._messages,
            pg_collection=self._groups.collection,
        )
        return cast("list[Tensor]", outputs)

    def to_device(self, batch: Batch) -> Batch:
        return sent_batch(batch, self._bare)

    def scored(self, scales: Tensor, collect: Collect | None, samples: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        """Gives what is minimised of a microbatch, and sums of loss and correct labels, [parts, 2]."""
        if collect is not None:
            collect(samples, scores)
        return self.terms.of(scores, scales)

    def _forward(
        self, scales: Tensor, collect: Collect | None, batches: Iterator[Batch], chunk: nn.Module
    ) -> tuple[Any, Any]:
        with self.clock.part("forward"):
            batch = next(batches)
            return chunk(batch), partial(self._loss, scales, collect, batch["samples"])

    def _loss(
        self, scales: Tensor, collect: Collect | None, samples: Tensor, scores: Scores
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As schedules ask for it, with the number of microbatches that it is of."""
        loss, sums = self.scored(scales, collect, samples, scores)
        return loss, torch.ones((), dtype=torch.int32, device=self._device), sums
