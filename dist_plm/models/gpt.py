"""The causal language model: one chunk of it, as a pipeline rank holds it."""

from typing import NamedTuple

import torch
from megatron.core.enums import ModelType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from dist_plm.models.context import Batch, SequenceContext
from dist_plm.models.embedding import Embedding, vocabulary_parts
from dist_plm.models.layers import LayerStack
from dist_plm.models.linear import ColumnLinear
from dist_plm.models.norms import build_norm
from dist_plm.models.positions import rotary_tables
from dist_plm.models.shape import Shape
from dist_plm.models.vocab_loss import vocab_parallel_argmax, vocab_parallel_loss


class TokenScores(NamedTuple):
    """What the last stage says of each label: its negative log-likelihood [B, S] fp32, and in evaluation whether it was
    the most likely token [B, S] bool."""

    loss: Tensor
    correct: Tensor | None


class CausalLanguageModel(MegatronModule):
    """GPT (Radford et al. 2019; Brown et al. 2020) and, by configuration, Llama (Touvron et al. 2023).

    Args:
        layers: the layers of this chunk.
        first, last: whether the chunk begins with the embedding and ends with the head.
    """

    def __init__(self, shape: Shape, layers: range, *, first: bool, last: bool, chunk: int | None) -> None:
        super().__init__(config=shape.megatron)
        self.shape = shape
        # Names that Megatron-core's schedules and gradient reduction look for.
        self.model_type = ModelType.encoder_or_decoder
        self.pre_process, self.post_process, self.vp_stage = first, last, chunk
        self.share_embeddings_and_output_weights = shape.model.tied_embeddings
        self._from_previous_stage: Tensor | None = None

        if first:
            self.embedding = Embedding(shape)
        self.layers = LayerStack(shape, layers.start, layers.stop)
        if last:
            self.final_norm = build_norm(shape.model, shape.dtype, shape.device, shape.sequence_parallel)
            tied = shape.model.tied_embeddings
            parts = vocabulary_parts("word" if tied else "output", shape)
            self.output = ColumnLinear(shape, parts, bias=False, allocate=not (tied and first))
        self._mark_tied()

    def _mark_tied(self) -> None:
        if not self.share_embeddings_and_output_weights or self.pre_process == self.post_process:
            return
        weight = self.shared_embedding_or_output_weight()
        assert weight is not None
        weight.shared_embedding = True  # pyright: ignore[reportAttributeAccessIssue]
        if self.post_process:
            weight.shared = True  # pyright: ignore[reportAttributeAccessIssue]
            weight.canonical_name = "embedding.word.weight"  # pyright: ignore[reportAttributeAccessIssue]

    def shared_embedding_or_output_weight(self) -> Tensor | None:
        """The weight that the first and the last stage both hold."""
        if self.pre_process:
            return self.embedding.word.weight
        return self.output.weight if self.post_process else None

    def set_input_tensor(self, input_tensor: list[Tensor | None]) -> None:
        """Takes the hidden states [S', B, H] of the previous stage; called by the pipeline schedule."""
        self._from_previous_stage = input_tensor[0]

    def forward(self, batch: Batch) -> Tensor | TokenScores:
        """Args:
            batch: `tokens` [B, S], `labels` [B, S] (negative: not predicted), `documents` [B, S] where attention or
                positions respect documents, `samples` [B] on the host.
        Returns:
            hidden states [S', B, H] for the next stage, or the scores of the labels on the last.
        """
        context, positions = self._context(batch)
        if self.pre_process:
            hidden = self.embedding(batch["tokens"], positions, context)
        else:
            hidden = self._from_previous_stage
        hidden = self.layers(hidden, context)
        if not self.post_process:
            return hidden
        return self._score(self.final_norm(hidden), batch["labels"])

    def _context(self, batch: Batch) -> tuple[SequenceContext, Tensor]:
        tokens, model = batch["tokens"], self.shape.model
        positions = batch.get("positions")
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        rotary = None
        if model.position == "rotary":
            assert model.head_size is not None
            rotary = rotary_tables(positions, model.head_size, model.rotary_base)
        samples = tuple(batch["samples"].tolist())
        context = SequenceContext(
            causal=True, documents=batch.get("documents"), rotary=rotary, samples=samples, seed=self.shape.seed
        )
        return context, positions

    def _score(self, hidden: Tensor, labels: Tensor) -> TokenScores:
        logits = self._logits(hidden)
        groups = self.shape.groups
        first = groups.coordinates.tensor * logits.shape[-1]
        valid = max(0, min(self.shape.vocab_size - first, logits.shape[-1]))
        labels = labels.transpose(0, 1)
        loss = vocab_parallel_loss(logits, labels, groups.tensor, first, valid)
        correct = None
        if not self.training:
            correct = (vocab_parallel_argmax(logits, groups.tensor, first, valid) == labels).transpose(0, 1)
        return TokenScores(loss.transpose(0, 1), correct)

    def _logits(self, hidden: Tensor) -> Tensor:
        """[S', B, H] -> [S, B, V / P]."""
        tied = self.share_embeddings_and_output_weights and self.pre_process
        logits, _ = self.output(hidden, weight=self.embedding.word.weight if tied else None)
        return logits
