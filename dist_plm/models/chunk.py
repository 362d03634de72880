"""Declares what every model chunk has in common: the names that Megatron-core's schedules and gradient reduction look for."""

import torch
from megatron.core.enums import ModelType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.models.heads.likelihoods import add_tokens, learned_factors, of_texts, score_texts, truth_of
from dist_plm.models.kernels.linear import linear
from dist_plm.models.kernels.linear_loss import LookAtLogits, linear_loss, token_chunks, token_losses, vocab_range_of
from dist_plm.models.layers.context_parallel import added_up, counted_once
from dist_plm.models.layers.embedding import Embedding
from dist_plm.models.layers.linear import ColumnLinear
from dist_plm.models.layers.vocab_loss import score_tokens
from dist_plm.models.loss_sums import Scores, TermScores
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sequence_context import KVCache
from dist_plm.spec.objectives.base import CROSS_ENTROPY


class ModelChunk(MegatronModule):
    """The part of a model that one pipeline rank runs at a time.

    The first chunk has an `embedding`, the last an `output` over the vocabulary or the head of a task; where embedding and
    output are tied and on different stages, each holds a copy of the weight.

    Args:
        layers: of a model that is one chain of them, those of this chunk; other models are whole.
        first, last: whether the chunk begins with the embedding and ends with the head.
        chunk: its number on this rank where there are several.
    """

    embedding: Embedding
    output: ColumnLinear

    def __init__(self, shared: ModelContext, layers: range, *, first: bool, last: bool, chunk: int | None) -> None:
        super().__init__(config=shared.megatron)
        self.shared = shared
        self.model_type = ModelType.encoder_or_decoder
        self.pre_process, self.post_process, self.vp_stage = first, last, chunk
        self.share_embeddings_and_output_weights = shared.model.tied_embeddings and shared.model.predicts_tokens
        self._from_previous_stage: Tensor | None = None

    @property
    def predicts_some(self) -> bool:
        """Whether the head sees the tokens that have a label alone."""
        return False

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Tensor | Scores:
        """Hidden states [S', B, H] for the next stage, or on the last stage the scores of the labels in `batch`; without
        `labels` the logits [..., V / P] of what they would be.

        Args:
            cache: of a decoder, the tokens before these. Then the logits are those of what follows the last token, [B, V / P].
        """
        raise NotImplementedError

    def sent_on(self, hidden: Tensor) -> Tensor:
        """Gives hidden states as the next stage takes them: its backward pass ends here even where nothing here, or before, is
        trained."""
        return hidden if hidden.requires_grad or not torch.is_grad_enabled() else hidden.requires_grad_()

    def mark_tied(self) -> None:
        """Tells Megatron-core and `sharding` of the two copies of a tied weight, once the parts of the chunk are there."""
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

    def score_tokens(self, hidden: Tensor, labels: Tensor, look: LookAtLogits | None = None) -> TermScores:
        """Scores labels [...], negative where nothing is predicted, by hidden states [..., H]. `look` sees the logits.

        The loss comes with the product over the vocabulary, whose result is never whole. It is found within the call of the
        output layer, for which DeepSpeed's ZeRO-3 puts the weight together.
        """
        tied = self._tied_weight()
        flat, correct = labels.flatten(), list[Tensor]()

        def loss(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if self.training:
                columns = vocab_range_of(len(weight), self.shared)
                return linear_loss(tokens, weight, bias, flat, columns, self.shared.token_loss, look)
            scores = self._evaluated(tokens, weight, bias, flat, look)
            correct.extend(one.correct for one in scores if one.correct is not None)
            return torch.stack([one.loss for one in scores]).sum()

        total, _ = self.output(hidden.flatten(0, -2), weight=tied, loss=loss)
        return TermScores(total, torch.stack(correct).sum() if correct else None)

    def score(self, hidden: Tensor, batch: Batch, labels: Tensor) -> Scores:
        """Scores what the batch asks of a model that predicts tokens: labels [T, R], negative where nothing is predicted, for
        themselves, or as the tokens of texts of which a sample has several; by hidden states [T', R, H]. T is over context
        ranks."""
        truth = truth_of(batch, labels.shape[1])
        if truth is None:
            return {"labels": self.score_tokens(hidden, labels)}
        flat, scores = labels.flatten(), list[TermScores]()

        def loss(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            columns = vocab_range_of(len(weight), self.shared)
            if self.training and not truth.against:  # a text that is learned for itself counts whatever the others lose
                factors = of_texts(truth.share, labels).flatten()
                total = linear_loss(tokens, weight, bias, flat, columns, CROSS_ENTROPY, None, factors)
                scores.append(TermScores(total.detach(), None))
                return total
            lost = add_tokens(token_losses(tokens, weight, bias, flat, columns), labels, truth)
            lost = added_up(lost, self.shared)
            whole = score_texts(truth, lost, evaluate=not self.training)
            scores.append(counted_once({truth.over: whole}, self.shared)[truth.over])
            if not self.training:
                return scores[0].loss
            factors = of_texts(learned_factors(truth, lost), labels).flatten()
            return linear_loss(tokens, weight, bias, flat, columns, CROSS_ENTROPY, None, factors)

        total, _ = self.output(hidden.flatten(0, -2), weight=self._tied_weight(), loss=loss)
        # The weighted sum has the gradient; of texts that are learned against each other its value is another.
        value = scores[0].loss + (total - total.detach())
        return {truth.over: scores[0]._replace(loss=value)}

    def _evaluated(
        self, tokens: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, look: LookAtLogits | None
    ) -> list[TermScores]:
        """Scores of chunks of the tokens [N, H], one of them at least."""
        scores = list[TermScores]()
        for chunk in list(token_chunks(len(tokens), len(weight))) or [slice(0)]:
            logits = linear(tokens[chunk], weight, bias)
            if look is not None:
                look(chunk, logits, vocab_range_of(len(weight), self.shared))
            scores.append(score_tokens(logits, labels[chunk], self.shared, evaluate=True))
        return scores

    def _tied_weight(self) -> Tensor | None:
        tied = self.share_embeddings_and_output_weights and self.pre_process
        return self.embedding.word.weight if tied else None

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., V / P], the sequence whole again."""
        logits, _ = self.output(hidden, weight=self._tied_weight())
        return logits
