"""ELECTRA (Clark et al. 2020): a small masked language model proposes tokens, and the encoder tells which were replaced."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.device import sent
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.encoder import token_output
from dist_plm.models.heads.task_heads import EncoderHead
from dist_plm.models.kernels.linear_loss import VocabRange
from dist_plm.models.layers.context_parallel import counted_once
from dist_plm.models.layers.dropout import Site, key_table, keys_of_layer, uniforms
from dist_plm.models.layers.embedding import Embedding
from dist_plm.models.layers.linear import ColumnLinear, Dense, RowLinear
from dist_plm.models.layers.norms import build_norm
from dist_plm.models.layers.pretraining_heads import (
    TokenTransform,
    joined_slices,
    pooled_states,
    positions_of,
    predicted,
    predicted_states,
    whole_sequence,
)
from dist_plm.models.layers.transformer import LayerStack
from dist_plm.models.loss_sums import Scores, TermScores
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sequence_context import KVCache, SequenceContext, context_of
from dist_plm.models.sharding import Part
from dist_plm.spec.families.electra import generator_of


class Electra(ModelChunk):
    """Generator and discriminator with shared embeddings (section 3.2), trained together. No gradient passes from the
    discriminator to the generator through the sampled tokens."""

    def __init__(self, shared: ModelContext, layers: range, *, first: bool, last: bool, chunk: int | None) -> None:
        super().__init__(shared, layers, first=first, last=last, chunk=chunk)
        small = shared.of(generator_of(shared.model))
        self.embedding = Embedding(shared)
        self.generator = ElectraNetwork(small, range(small.model.layers), before=0)
        self.transform = TokenTransform(small)
        self.output = token_output(small, allocate=not shared.model.tied_embeddings)
        self.discriminator = ElectraNetwork(shared, layers, before=small.model.layers)
        self.detector = Detector(shared)

    @property
    def predicts_some(self) -> bool:
        return True

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Tensor | Scores:
        """Runs generator and discriminator on a microbatch.

        Args:
            batch: `tokens` [B, S] with the predicted ones masked, `labels` [B, S] (negative: not predicted), `originals`
                [B, S] (negative: not judged), `samples` [B] on the host, and where they apply `lengths`, `segments`,
                `documents`, `positions`.
        Returns:
            the scores of `labels` by the generator and of `originals` by the discriminator; without `labels` the generator's
            logits [N, V / P] of the places `positions_predicted` [N].
        """
        assert cache is None, "an encoder reads whole sequences"
        evaluate, own = not self.training, self.shared.own
        context, positions = context_of(batch, self.shared, causal=False)
        if "pooled" in batch:  # by the discriminator, which is what is kept
            embedded = self.embedding(own(batch["tokens"]), positions, context, own(batch.get("segments")), part=-2)
            return pooled_states(whole_sequence(self.discriminator(embedded, context), self.shared), batch)

        embedded = self.embedding(own(batch["tokens"]), positions, context, own(batch.get("segments")), part=-1)
        hidden = joined_slices(self.generator(embedded, self._as_generated(context, batch)), self.shared)
        if "labels" not in batch:
            return self.logits(self.transform(predicted_states(hidden, batch, self.shared)))
        chosen, labels = predicted(hidden, batch, self.shared)
        places, uniform = positions_of(batch, self.shared), self._uniform(batch["samples"], batch["tokens"])
        drawn = torch.empty_like(labels)

        def draw(chunk: slice, logits: Tensor, columns: VocabRange) -> None:
            drawn[chunk] = vocab_parallel_sample(logits, uniform[places[chunk]], columns)

        scores = {"labels": self.score_tokens(self.transform(chosen), labels, look=draw)}

        originals = own(batch["originals"])
        tokens = _replaced(originals.clamp(min=0), places, drawn)
        embedded = self.embedding(tokens, positions, context, own(batch.get("segments")), part=-2)
        judged = self.detector(self.discriminator(embedded, context))
        scores["originals"] = _score_judgements(judged, tokens != originals, originals >= 0, evaluate=evaluate)
        return scores

    def judge(self, batch: Batch) -> Tensor:
        """Gives the discriminator's logits [B, S] of `tokens` as they are, above 0 where one was replaced."""
        own = self.shared.own
        context, positions = context_of(batch, self.shared, causal=False)
        embedded = self.embedding(own(batch["tokens"]), positions, context, own(batch.get("segments")), part=-2)
        return self.detector(self.discriminator(embedded, context))

    def _as_generated(self, context: SequenceContext, batch: Batch) -> SequenceContext:
        """Gives the context for the generator's layers: tables of rotary positions go by the size of a head, and so does how a
        kernel is told of masks."""
        small = self.shared.of(generator_of(self.shared.model))
        if small.model.head_size == self.shared.model.head_size:
            return context
        return replace(context_of(batch, small, causal=False)[0], keys=context.keys)

    def _uniform(self, samples: Tensor, tokens: Tensor) -> Tensor:
        """Gives a number in [0, 1), fp64, for each of `tokens` [B, S] that this rank has, in the order of the flattened
        [S / C, B]."""
        table = key_table(self.shared.model, samples, self.shared.seed)
        keys = keys_of_layer(table, -1)[Site.REPLACEMENT]
        drawn = self.shared.own(uniforms(keys, tokens.shape[1]).T).T
        return sent(drawn.reshape(-1), tokens.device)


class ElectraEncoder(ModelChunk):
    """The encoder of the discriminator with the head of a task, which is a chain of layers: the generator has no part in it.

    Args:
        layers: the layers of this chunk.
        first, last: whether the chunk begins with the embedding and ends with the head.
    """

    def __init__(self, shared: ModelContext, layers: range, *, first: bool, last: bool, chunk: int | None) -> None:
        super().__init__(shared, layers, first=first, last=last, chunk=chunk)
        if first:
            self.embedding = Embedding(shared)
        self.discriminator = ElectraNetwork(shared, layers, before=0, first=first, last=last)
        if last:
            self.head = EncoderHead(shared)

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Tensor | Scores:
        """Runs this rank's layers on a microbatch, as `encoder.MaskedLanguageModel` does."""
        assert cache is None, "an encoder reads whole sequences"
        own = self.shared.own
        context, positions = context_of(batch, self.shared, causal=False)
        if self.pre_process:
            hidden = self.embedding(own(batch["tokens"]), positions, context, own(batch.get("segments")))
        else:
            hidden = self._from_previous_stage
        hidden = self.discriminator(hidden, context)
        if not self.post_process:
            return self.sent_on(hidden)
        hidden = whole_sequence(hidden, self.shared)
        if "pooled" in batch:
            return pooled_states(hidden, batch)
        return counted_once(self.head(hidden, batch, context, None), self.shared)


class ElectraNetwork(nn.Module):
    """One of the two networks, or the layers of one that a pipeline stage holds: from shared embeddings [S', B,
    embedding_size] to hidden states [S', B, H].

    Args:
        before: layers of the other network, which come first in the numbering of dropout keys.
        first, last: whether it begins with the embeddings and ends with the last layer.
    """

    def __init__(
        self, shared: ModelContext, layers: range, *, before: int, first: bool = True, last: bool = True
    ) -> None:
        super().__init__()
        model = shared.model
        self.project = None
        if first and shared.embedding_size != model.hidden:
            self.project = Dense(shared, shared.embedding_size, model.hidden, sliced_input=shared.sequence_parallel)
        self.layers = LayerStack(shared, layers.start, layers.stop, before=before)
        self.final_norm = None
        if last and model.norm_placement == "pre":
            self.final_norm = build_norm(model, shared.dtype, shared.device, shared.sequence_parallel)

    def forward(self, embedded: Tensor, context: SequenceContext) -> Tensor:
        hidden = embedded if self.project is None else self.project(embedded)
        hidden = self.layers(hidden, context)
        return hidden if self.final_norm is None else self.final_norm(hidden)


class Detector(nn.Module):
    """Tells of each token whether it was replaced: dense layer, GELU, and one logit."""

    def __init__(self, shared: ModelContext) -> None:
        super().__init__()
        hidden = shared.model.hidden
        self.dense = ColumnLinear(shared, (Part("dense", hidden),), bias=True)
        self.classifier = RowLinear(shared, hidden, bias=True, output_size=1, whole_output=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """[S', B, H] -> logits [B, S / C]."""
        inner, _ = self.dense(hidden)
        logits, _ = self.classifier(functional.gelu(inner))
        return logits[..., 0].transpose(0, 1)


def _replaced(originals: Tensor, places: Tensor, drawn: Tensor) -> Tensor:
    """[B, S] originals with the tokens `drawn` [N] in `places` [N], as `predicted_positions` tells them."""
    tokens = originals.transpose(0, 1).clone(memory_format=torch.contiguous_format)
    tokens.view(-1)[places] = drawn
    return tokens.transpose(0, 1)


def _score_judgements(logits: Tensor, replaced: Tensor, judged: Tensor, *, evaluate: bool) -> TermScores:
    """All [B, S]; equation 2 of section 3.1."""
    losses = functional.binary_cross_entropy_with_logits(logits.float(), replaced.float(), reduction="none")
    correct = (judged & ((logits > 0) == replaced)).sum() if evaluate else None
    return TermScores((losses * judged).sum(), correct)


@torch.no_grad()
def vocab_parallel_sample(logits: Tensor, uniform: Tensor, columns: VocabRange) -> Tensor:
    """Tokens drawn from softmax(logits) by inverting the cumulative distribution, the same on every rank.

    Args:
        logits: [N, V / P], this rank's columns.
        uniform: [N] fp64 in [0, 1), equal on all ranks.
    Returns:
        [N] int64.
    """
    group, first, valid, _ = columns
    scores = logits[:, :valid].double()
    largest = scores.amax(dim=-1) if valid else scores.new_full((len(scores),), -torch.inf)
    if group.size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    with _any_algorithm():
        cumulative = scores.sub_(largest[:, None]).exp_().cumsum_(dim=-1)
    own = cumulative[:, -1] if valid else torch.zeros_like(largest)
    sums = own[None].contiguous()
    if group.size() > 1:
        gathered = own.new_empty(group.size() * len(own))
        dist.all_gather_into_tensor(gathered, own.contiguous(), group=group)
        sums = gathered.view(group.size(), -1)
    before = sums[: group.rank()].sum(dim=0)
    target = uniform * sums.sum(dim=0)
    mine = (target >= before) & (target < before + own)
    token = torch.zeros_like(uniform, dtype=torch.int64)
    if valid:
        column = torch.searchsorted(cumulative, (target - before)[:, None], right=True)[:, 0].clamp(max=valid - 1)
        token = torch.where(mine, column + first, token)
    if group.size() > 1:
        dist.all_reduce(token, op=dist.ReduceOp.MAX, group=group)
    return token


@contextmanager
def _any_algorithm() -> Iterator[None]:
    """For sums along rows on CUDA: each row is one block's, in one order, but some versions of PyTorch refuse them under
    `train.deterministic` as they do those of one long row."""
    asked = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warns)
