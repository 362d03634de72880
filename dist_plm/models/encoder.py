"""The masked language model: one chunk of it, as a pipeline rank holds it."""

from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.heads.losses import score_classes
from dist_plm.models.heads.task_heads import EncoderHead
from dist_plm.models.layers.context_parallel import counted_once
from dist_plm.models.layers.embedding import Embedding, vocabulary_parts
from dist_plm.models.layers.linear import ColumnLinear
from dist_plm.models.layers.norms import build_norm
from dist_plm.models.layers.pretraining_heads import (
    PairHead,
    Pooler,
    TokenTransform,
    joined_slices,
    pooled_states,
    predicted,
    predicted_states,
    whole_sequence,
)
from dist_plm.models.layers.transformer import LayerStack
from dist_plm.models.loss_sums import Scores
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sequence_context import KVCache, SequenceContext, context_of
from dist_plm.models.sharding import split_over_tensor_ranks
from dist_plm.spec.families.encoder import EncoderConfig


class MaskedLanguageModel(ModelChunk):
    """BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), and BERT with norms before each half of a layer and after the
    last one (Shoeybi et al. 2019, section 5.3).

    Args:
        layers: the layers of this chunk.
        first, last: whether the chunk begins with the embedding and ends with the heads.
    """

    def __init__(self, shared: ModelContext, layers: range, *, first: bool, last: bool, chunk: int | None) -> None:
        super().__init__(shared, layers, first=first, last=last, chunk=chunk)
        if first:
            self.embedding = Embedding(shared)
        self.layers = LayerStack(shared, layers.start, layers.stop)
        if last:
            self.final_norm = None
            if shared.model.norm_placement == "pre":
                self.final_norm = build_norm(shared.model, shared.dtype, shared.device, shared.sequence_parallel)
            (self._add_heads if shared.model.predicts_tokens else self._add_task_head)(first)
        self.mark_tied()

    @property
    def predicts_some(self) -> bool:
        return self.shared.model.predicts_tokens

    def _add_task_head(self, _: bool) -> None:
        model = self.shared.model
        assert isinstance(model, EncoderConfig)
        self.pair = Pooler(self.shared) if model.has_pooler and model.scores_sequences else None
        self.head = EncoderHead(self.shared)

    def _add_heads(self, first: bool) -> None:
        shared = self.shared
        self.transform = TokenTransform(shared)
        self.output = token_output(shared, allocate=not (shared.model.tied_embeddings and first))
        self.pair = PairHead(shared) if shared.model.pair_head else None

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Tensor | Scores:
        """Runs this rank's layers on a microbatch.

        Args:
            batch: `tokens` [B, S], `labels` [B, S] (negative: not predicted) or what the head of a task learns, `samples` [B]
                on the host, and where they apply `lengths` [B], `segments` [B, S], `pair_labels` [B], `documents` [B, S],
                `positions` [B, S].
        Returns:
            hidden states [S', B, H] for the next stage, or the scores of what is predicted on the last; of a language model
            without `labels` the logits [N, V / P] of the places `positions_predicted` [N].
        """
        assert cache is None, "an encoder reads whole sequences"
        own = self.shared.own
        context, positions = context_of(batch, self.shared, causal=False)
        if self.pre_process:
            hidden = self.embedding(own(batch["tokens"]), positions, context, own(batch.get("segments")))
        else:
            hidden = self._from_previous_stage
        hidden = self.layers(hidden, context)
        return self.score(hidden, batch, context) if self.post_process else self.sent_on(hidden)

    def score(self, hidden: Tensor, batch: Batch, context: SequenceContext) -> Tensor | Scores:
        """Scores of the labels from the output of the layers [S', B, H], or logits. The head over the vocabulary sees the
        predicted positions alone."""
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        shared = self.shared
        if "pooled" in batch:
            return pooled_states(whole_sequence(hidden, shared), batch)
        if not shared.model.predicts_tokens:
            return counted_once(self.head(whole_sequence(hidden, shared), batch, context, self.pair), shared)
        hidden = joined_slices(hidden, shared)
        if "labels" not in batch:
            return self.logits(self.transform(predicted_states(hidden, batch, shared)))
        chosen, labels = predicted(hidden, batch, shared)
        scores = {"labels": self.score_tokens(self.transform(chosen), labels)}
        if self.pair is not None:
            pairs = score_classes(self.pair(hidden), batch["pair_labels"], evaluate=not self.training)
            scores |= counted_once({"pair_labels": pairs}, shared)
        return scores


def token_output(shared: ModelContext, *, allocate: bool) -> ColumnLinear:
    """From whole sequences of vectors to logits, with a bias for each token."""
    tied = shared.model.tied_embeddings
    parts = vocabulary_parts("word" if tied else "output", shared)
    output = ColumnLinear(
        shared, parts, bias=True, allocate=allocate, input_size=shared.embedding_size, whole_input=True
    )
    split_over_tensor_ranks(output.bias, 0, vocabulary_parts("output", shared))
    return output
