"""The causal language model: one chunk of it, as a pipeline rank holds it."""

from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.heads.task_heads import LastTokenHead
from dist_plm.models.layers.context_parallel import counted_once
from dist_plm.models.layers.embedding import Embedding, vocabulary_parts
from dist_plm.models.layers.linear import ColumnLinear
from dist_plm.models.layers.norms import build_norm
from dist_plm.models.layers.pretraining_heads import pooled_states, whole_sequence
from dist_plm.models.layers.transformer import LayerStack
from dist_plm.models.loss_sums import Scores
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sequence_context import KVCache, context_of


class CausalLanguageModel(ModelChunk):
    """GPT (Radford et al. 2019; Brown et al. 2020) and, by configuration, Llama (Touvron et al. 2023).

    Args:
        layers: the layers of this chunk.
        first, last: whether the chunk begins with the embedding and ends with the head.
    """

    def __init__(self, shared: ModelContext, layers: range, *, first: bool, last: bool, chunk: int | None) -> None:
        super().__init__(shared, layers, first=first, last=last, chunk=chunk)
        if first:
            self.embedding = Embedding(shared)
        self.layers = LayerStack(shared, layers.start, layers.stop)
        if last:
            self.final_norm = build_norm(shared.model, shared.dtype, shared.device, shared.sequence_parallel)
            if shared.model.predicts_tokens:
                self._add_output(first)
            else:
                self.head = LastTokenHead(shared)
        self.mark_tied()

    def _add_output(self, first: bool) -> None:
        tied = self.shared.model.tied_embeddings
        parts = vocabulary_parts("word" if tied else "output", self.shared)
        self.output = ColumnLinear(self.shared, parts, bias=False, allocate=not (tied and first))

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Tensor | Scores:
        """Runs this rank's layers on a microbatch.

        Args:
            batch: `tokens` [B, S], `labels` [B, S] (negative: not predicted) or what the head of a task learns, `documents`
                [B, S] where attention or positions respect documents, `seen_from` [B, S] where it is not causal, `lengths` [B]
                where rows are padded, `samples` [B] on the host.
            cache: the tokens before these; `documents` and `seen_from` are of all of them.
        Returns:
            hidden states [S', B, H] for the next stage, or the scores of what is predicted on the last; of a language model
            without `labels` logits [S, B, V / P], with a cache those of the last token, [B, V / P]. With `pooled` [B, S]
            vectors of rows instead, see `pooled_states`; so do all families.
        """
        context, positions = context_of(batch, self.shared, causal=True, cache=cache)
        if self.pre_process:
            hidden = self.embedding(self.shared.own(batch["tokens"]), positions, context)
        else:
            hidden = self._from_previous_stage
        hidden = self.layers(hidden, context)
        if cache is not None:
            cache.advance(len(hidden))
        if not self.post_process:
            return self.sent_on(hidden)
        if "pooled" in batch:
            return pooled_states(whole_sequence(self.final_norm(hidden), self.shared), batch)
        if not self.shared.model.predicts_tokens:
            return counted_once(self.head(whole_sequence(self.final_norm(hidden), self.shared), batch), self.shared)
        if "labels" not in batch:
            return self.logits(self.final_norm(hidden if cache is None else hidden[-1]))
        return self.score(self.final_norm(hidden), batch, self.shared.own(batch["labels"]).transpose(0, 1))
