"""The masked language model: one chunk of it, as a pipeline rank holds it."""

from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.heads.losses import score_classes
from dist_plm.models.heads.task_heads import EncoderHead
from dist_plm.models.layers.embedding import Embedding, vocabulary_parts
from dist_plm.models.layers.heads import (
    PairHead,
    Pooler,
    TokenTransform,
    predicted,
    predicted_states,
    whole_sequence,
)
from dist_plm.models.layers.linear import ColumnLinear
from dist_plm.models.layers.norms import build_norm
from dist_plm.models.layers.transformer import LayerStack
from dist_plm.models.loss_sums import Scores
from dist_plm.models.model_context import Shape
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

    def __init__(self, shape: Shape, layers: range, *, first: bool, last: bool, chunk: int | None) -> None:
        super().__init__(shape, layers, first=first, last=last, chunk=chunk)
        if first:
            self.embedding = Embedding(shape)
        self.layers = LayerStack(shape, layers.start, layers.stop)
        if last:
            self.final_norm = None
            if shape.model.norm_placement == "pre":
                self.final_norm = build_norm(shape.model, shape.dtype, shape.device, shape.sequence_parallel)
            (self._add_heads if shape.model.predicts_tokens else self._add_task_head)(first)
        self.mark_tied()

    @property
    def predicts_some(self) -> bool:
        return self.shape.model.predicts_tokens

    def _add_task_head(self, _: bool) -> None:
        model = self.shape.model
        assert isinstance(model, EncoderConfig)
        self.pair = Pooler(self.shape) if model.has_pooler and model.scores_sequences else None
        self.head = EncoderHead(self.shape)

    def _add_heads(self, first: bool) -> None:
        shape = self.shape
        self.transform = TokenTransform(shape)
        self.output = token_output(shape, allocate=not (shape.model.tied_embeddings and first))
        self.pair = PairHead(shape) if shape.model.pair_head else None

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
        context, positions = context_of(batch, self.shape, causal=False)
        if self.pre_process:
            hidden = self.embedding(batch["tokens"], positions, context, batch.get("segments"))
        else:
            hidden = self._from_previous_stage
        hidden = self.layers(hidden, context)
        return self.score(hidden, batch, context) if self.post_process else self.sent_on(hidden)

    def score(self, hidden: Tensor, batch: Batch, context: SequenceContext) -> Tensor | Scores:
        """Scores of the labels from the output of the layers [S', B, H], or logits. The head over the vocabulary sees the
        predicted positions alone."""
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        hidden = whole_sequence(hidden, self.shape)
        if not self.shape.model.predicts_tokens:
            return self.head(hidden, batch, context, self.pair)
        if "labels" not in batch:
            return self.logits(self.transform(predicted_states(hidden, batch)))
        chosen, labels = predicted(hidden, batch)
        scores = {"labels": self.score_tokens(self.transform(chosen), labels)}
        if self.pair is not None:
            scores["pair_labels"] = score_classes(self.pair(hidden), batch["pair_labels"], evaluate=not self.training)
        return scores


def token_output(shape: Shape, *, allocate: bool) -> ColumnLinear:
    """From whole sequences of vectors to logits, with a bias for each token."""
    tied = shape.model.tied_embeddings
    parts = vocabulary_parts("word" if tied else "output", shape)
    output = ColumnLinear(shape, parts, bias=True, allocate=allocate, input_size=shape.embedding_size, whole_input=True)
    split_over_tensor_ranks(output.bias, 0, vocabulary_parts("output", shape))
    return output
