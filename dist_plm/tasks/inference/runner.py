"""Runs a model on its process grid, a batch at a time, without an optimizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.groups import Groups
from dist_plm.engines.sending import sent_batch
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.kernels.linear_loss import vocab_range_of
from dist_plm.models.layers.vocab_loss import vocab_parallel_argmax, vocab_parallel_loss
from dist_plm.models.loss_sums import Scores
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sequence_context import KVCache
from dist_plm.spec.families import ModelConfig


@dataclass(frozen=True, slots=True)
class Runner:
    """Holds this rank's part of a model. All ranks that share the model call the same methods with the same batches, in
    which nothing is on a device yet. Their rows are as long as `fitting` makes them.

    Not in inference mode: weights that DeepSpeed's ZeRO-3 puts together for a pass are those of the next step too."""

    chunks: Sequence[ModelChunk]
    groups: Groups
    shared: ModelContext

    @property
    def model(self) -> ModelConfig:
        return self.shared.model

    @torch.no_grad()
    def run(self, batch: Batch, cache: KVCache | None = None) -> Tensor | Scores | None:
        """Gives what ModelChunk.forward does on the last stage; None on the others. With several chunks a rank a batch goes
        round through the stages once for each."""
        batch = sent_batch(batch, self.chunks[0])
        groups, stages = self.groups, self.groups.grid.pipeline
        stage, read = groups.coordinates.pipeline, 0 if cache is None else cache.length
        for number, chunk in enumerate(self.chunks):
            if number or not groups.is_first_stage:
                hidden = self._room(*batch["tokens"].shape)
                dist.recv(hidden, group=groups.pipeline, group_src=(stage - 1) % stages)
                chunk.set_input_tensor([hidden])
            if cache is not None:
                cache.length = read  # each chunk counts what it reads
            result = chunk(batch, cache)
            if groups.is_last_stage and chunk is self.chunks[-1]:
                return result
            dist.send(result.contiguous(), group=groups.pipeline, group_dst=(stage + 1) % stages)
        return None

    def _room(self, rows: int, length: int) -> Tensor:
        """Room for the hidden states of another stage."""
        shape = length // self.shared.slices["num_slices"], rows, self.model.hidden
        return torch.empty(shape, dtype=self.shared.dtype, device=self.shared.device)

    def fitting(self, length: int) -> int:
        """The least length of rows, `length` or more, that sequence parallelism can slice."""
        slices = self.shared.slices["num_slices"]
        return -(-length // slices) * slices

    @torch.no_grad()
    def pooled(self, batch: Batch) -> Tensor:
        """Gives vectors of the rows, [B, H] fp32, on the host of every rank.

        Args:
            batch: with `pooled` [B, S], how much each token counts.
        """
        states = self.run(batch)
        told = torch.empty(len(batch["tokens"]), self.model.hidden, device=self.shared.device)
        if states is not None:
            assert isinstance(states, Tensor)
            told[:] = states
        return self.from_last_stage(told).cpu()

    @torch.no_grad()
    def judge(self, batch: Batch, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Tells of each label its negative log-likelihood and whether it is the most likely token, on every rank: fp32 and
        bool, shaped like `labels`, on the host; 0 and false where a label is negative.

        Args:
            batch: without `labels`.
            labels: [...] as the logits of the batch.
        """
        logits = self.run(batch)
        told = torch.empty(2, *labels.shape, device=self.shared.device)
        if logits is not None:
            assert isinstance(logits, Tensor)
            wanted = labels.to(logits.device)
            columns = vocab_range_of(logits.shape[-1], self.shared)
            told[0] = vocab_parallel_loss(logits, wanted, columns)
            told[1] = vocab_parallel_argmax(logits, columns) == wanted
        losses, hits = self.from_last_stage(told).cpu()
        return losses, (hits > 0) & (labels >= 0)

    @torch.no_grad()
    def scores(
        self, batch: Batch, names: Sequence[str], collect: Callable[[Tensor, Scores], None] | None = None
    ) -> list[tuple[float, float]]:
        """Sums of loss, and of labels that are the most likely, of arrays of labels by their names, on every rank.

        Args:
            collect: takes the samples and what the last stage says of them.
        """
        scores = self.run(batch)
        told = torch.zeros(len(names), 2, dtype=torch.float64, device=self.shared.device)
        if scores is not None:
            assert isinstance(scores, dict)
            if collect is not None:
                collect(batch["samples"], scores)
            for row, name in zip(told, names, strict=True):
                term = scores[name]
                row[0] = term.loss
                if term.correct is not None:  # numbers are never just right
                    row[1] = term.correct
        return [(loss, correct) for loss, correct in self.from_last_stage(told).tolist()]

    def whole_logits(self, logits: Tensor) -> Tensor:
        """[N, V / P] of each tensor rank -> [N, V] fp32 on all of them, without the padding of the vocabulary."""
        logits, group = logits.float().contiguous(), self.groups.tensor
        if group.size() > 1:
            parts = [torch.empty_like(logits) for _ in range(group.size())]
            dist.all_gather(parts, logits, group=group)
            logits = torch.cat(parts, dim=-1)
        return logits[:, : self.shared.vocab_size]

    def from_last_stage(self, values: Tensor) -> Tensor:
        """Gives every stage what the last one holds; filled in place."""
        stages = self.groups.grid.pipeline
        if stages > 1:
            dist.broadcast(values, group=self.groups.pipeline, group_src=stages - 1)
        return values
