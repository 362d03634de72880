"""Puts the heads of tasks on top of a network: scores of a sequence, of each token, or of where a span begins and ends.

They work on whole sequences, and every tensor rank does the same work, so the gradients of their parameters are whole.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_plm.data.loader.batch import Batch
from dist_plm.models.heads.losses import score_classes, score_sequences, score_spans
from dist_plm.models.layers.dropout import Site, dropout_add
from dist_plm.models.layers.linear import Dense
from dist_plm.models.layers.pretraining_heads import Pooler
from dist_plm.models.loss_sums import Scores
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sequence_context import SequenceContext
from dist_plm.spec.families.encoder import EncoderConfig


class EncoderHead(nn.Module):
    """Scores a sequence by its first token, behind a dense layer or BERT's pooler, and tokens and spans by each token, as the
    classes of Hugging Face do."""

    def __init__(self, shared: ModelContext) -> None:
        super().__init__()
        model = shared.model
        assert isinstance(model, EncoderConfig)
        self.shared, self.kind = shared, model.head
        has_dense = model.scores_sequences and not model.has_pooler
        self.dense = Dense(shared, model.hidden, model.hidden) if has_dense else None
        self.activation = {"tanh": torch.tanh, "gelu": functional.gelu}[model.head_activation]
        self.output = Dense(shared, model.hidden, model.num_labels)

    def forward(self, hidden: Tensor, batch: Batch, context: SequenceContext, pooler: Pooler | None) -> Scores:
        """Scores what the batch asks of [S, B, H]; see objectives.base for its arrays."""
        evaluate = not self.training
        if self.shared.model.scores_sequences:
            logits = self.output(self._drop(self._first(hidden, context, pooler), context, Site.HEAD_OUTPUT))
            return score_sequences(logits[0], batch, evaluate=evaluate)
        if self.kind == "span":
            return score_spans(self.output(hidden).transpose(0, 1), batch, evaluate=evaluate)
        logits = self.output(self._drop(hidden, context, Site.HEAD_OUTPUT)).transpose(0, 1)
        return {"tags": score_classes(logits, batch["tags"], evaluate=evaluate, soft=batch.get("tags_soft"))}

    def _first(self, hidden: Tensor, context: SequenceContext, pooler: Pooler | None) -> Tensor:
        """[S, B, H] -> [1, B, H]."""
        if self.dense is None:
            assert pooler is not None
            return pooler.pool(hidden[:1])
        return self.activation(self.dense(self._drop(hidden[:1], context, Site.HEAD_INPUT)))

    def _drop(self, hidden: Tensor, context: SequenceContext, site: Site) -> Tensor:
        probability = self.shared.model.head_dropout
        if not self.training or probability == 0.0:
            return hidden
        keys = context.of_layer(sum(stack.layers for stack in self.shared.model.stacks())).keys
        assert keys is not None
        return dropout_add(hidden, None, probability, keys[site], slice_index=0, num_slices=1)


class LastTokenHead(nn.Module):
    """Scores a sequence by its last token before the padding, without a bias, as GPT2ForSequenceClassification does."""

    def __init__(self, shared: ModelContext) -> None:
        super().__init__()
        self.output = Dense(shared, shared.model.hidden, shared.model.num_labels, bias=False)

    def forward(self, hidden: Tensor, batch: Batch) -> Scores:
        """Scores what the batch asks of [S, B, H]."""
        last = hidden[-1]
        if "lengths" in batch:
            rows = torch.arange(hidden.shape[1], device=hidden.device)
            last = hidden[batch["lengths"] - 1, rows]
        return score_sequences(self.output(last), batch, evaluate=not self.training)
