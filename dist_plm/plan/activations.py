"""Counts what a forward pass keeps for its backward pass, from the operations that dist_plm.models runs.

A product keeps its input, a norm its input, an activation function its argument; residual sums and dropout keep nothing (the
masks are drawn again). Fused attention keeps queries, keys, values, its result and a number a row and head. This is table
2 of Korthikanti et al. 2022 (arXiv 2205.05198) with fused attention and without stored masks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dist_plm.plan.rank_tensors import LayerKind, padded
from dist_plm.spec.families.base import ModelConfig, StackSpec, known
from dist_plm.spec.families.encoder_decoder import LENGTH_MULTIPLE
from dist_plm.spec.families.lora import ADAPTERS
from dist_plm.spec.pipeline import loss_chunk_rows
from dist_plm.spec.schema import TrainingConfig

#: Bytes of numbers that are fp32 whatever the precision: statistics of norms, sums of a softmax, moments.
FP32 = 4


@dataclass(frozen=True, slots=True)
class Pass:
    """Describes one microbatch as a rank sees it.

    Args:
        samples: rows of the microbatch that are read: one a sample, or one for each of its choices.
        read, written: tokens of it that this context rank has; `written` by a decoder.
        predicted: those whose logits are computed.
        tensor: ranks that split the heads.
        slices: ranks that split what lies between the products; 1 without sequence parallelism.
        element: bytes of an activation.
        operand: of what a product keeps, which is a copy where these are fewer.
        context: ranks that split each sequence.
        exchanges: they exchange tokens for heads, where others' send keys and values round a ring.
        texts: rows that a decoder writes; as many as are read where that is None.
    """

    samples: int
    read: int
    written: int
    predicted: int
    tensor: int
    slices: int
    element: int
    operand: int
    context: int = 1
    exchanges: bool = True
    texts: int | None = None

    @classmethod
    def of(cls, config: TrainingConfig, *, exchanges: bool = True) -> "Pass":
        parallel, length = config.parallel, config.data.sequence_length
        rows = config.objective.rows_of_sample(config.model)
        samples = config.train.micro_batch * rows.read
        texts = config.train.micro_batch * rows.written if config.model.has_decoder else samples
        target = config.objective.target_length(length)
        slices = parallel.tensor if parallel.sequence_parallel else 1
        written = length
        if config.model.has_decoder and target is not None:
            written = target + -target % math.lcm(LENGTH_MULTIPLE, slices * parallel.context)
        share = config.objective.predicted_share
        return cls(
            samples=samples,
            read=samples * length // parallel.context,
            written=texts * written // parallel.context,
            predicted=max(1, round(texts * written * share / parallel.context)),
            tensor=parallel.tensor,
            slices=slices,
            element=config.precision.weight_bytes,
            operand=1 if config.precision.in_8_bits else config.precision.weight_bytes,
            context=parallel.context,
            exchanges=exchanges and parallel.context > 1,
            texts=texts,
        )

    def keys(self, model: ModelConfig) -> int:
        """Key-value heads of a tensor rank, over all its context ranks: those that are fewer are sent to several of them."""
        return max(known(model.kv_heads, "kv_heads") // self.tensor, self.context if self.exchanges else 0)

    @property
    def copied(self) -> int:
        """Bytes that a product keeps of what another operation keeps as well."""
        return self.operand if self.operand < self.element else 0

    @property
    def remembered(self) -> int:
        """Tokens that a decoder looks back at: those that are read, once for each text that is written of them."""
        return self.read if self.texts is None else self.read * self.texts // self.samples

    def tokens(self, stack: StackSpec) -> int:
        """Tokens that a stack of layers runs on."""
        return self.written if stack.is_decoder else self.read

    def rows(self, stack: StackSpec) -> int:
        """Rows that they are in."""
        return self.samples if self.texts is None or not stack.is_decoder else self.texts


@dataclass(frozen=True, slots=True)
class Kept:
    """Holds the bytes of one layer, by what lets go of them.

    Args:
        hidden: its input, which every setting keeps.
        inner: what model.recompute=full computes again.
        cheap: what model.recompute=selective computes again as well.
    """

    hidden: int
    inner: int
    cheap: int

    @property
    def whole(self) -> int:
        return self.hidden + self.inner + self.cheap

    def under(self, recompute: str) -> int:
        """Tells what stays until the backward pass with `model.recompute`."""
        return {"none": self.whole, "selective": self.hidden + self.inner, "full": self.hidden}[recompute]


def kept_by_layer(stack: StackSpec, one: Pass, layer: LayerKind | None = None) -> Kept:
    """Counts what one layer of a stack keeps of a microbatch, on one rank.

    Args:
        layer: its tensors, all of which are trained if None: what a product multiplies is kept for its weight's gradient alone.
    """
    if layer is not None and not layer.runs_backward:
        return Kept(0, 0, 0)
    model, tokens = stack.network, one.tokens(stack)
    width = tokens // one.slices * model.hidden
    hidden, operand = width * one.element, width * one.operand
    statistics = 2 * FP32 * tokens // one.slices
    projects = layer is None or layer.trains("attention.output")
    inner, cheap = _attention(model, one, tokens, tokens, projects=projects)
    # The input of the second norm, and what both norms give.
    into_attention = layer is None or layer.trains("attention.query", "attention.key", "attention.value")
    into_mlp = layer is None or layer.trains("mlp.gate", "mlp.up")
    inner += hidden + (into_attention + into_mlp) * operand + 2 * statistics
    if stack.is_decoder:
        more_inner, more_cheap = _attention(model, one, tokens, one.remembered, projects=projects)
        memory = one.read // one.slices * model.hidden * one.copied
        inner, cheap = inner + more_inner + hidden + operand + memory + statistics, cheap + more_cheap
    more_inner, more_cheap = _mlp(model, one, tokens, down=layer is None or layer.trains("mlp.down"))
    more_inner += 0 if layer is None else _adapters(layer, one, tokens) + _dropped(layer, model, one, tokens)
    return Kept(hidden, inner + more_inner, cheap + more_cheap)


def _adapters(layer: LayerKind, one: Pass, tokens: int) -> int:
    """Counts what adapters' first halves give."""
    return sum(
        tokens * held.shape[0] * one.element for held in layer.tensors if held.spec.name.endswith(f".{ADAPTERS[0]}")
    )


def _dropped(layer: LayerKind, model: ModelConfig, one: Pass, tokens: int) -> int:
    """Counts what is left of attention's result where an adapter drops some of it, beside the whole of it, which attention
    keeps. Other layers keep what is left in place of the whole."""
    if model.lora is None or model.lora.dropout == 0.0:
        return 0
    ends = f".output.{ADAPTERS[0]}"
    return sum(tokens * held.shape[1] * one.element for held in layer.tensors if held.spec.name.endswith(ends))


def _attention(model: ModelConfig, one: Pass, tokens: int, others: int, *, projects: bool) -> tuple[int, int]:
    """Counts queries, keys, values and the result, which the product that follows copies if its matrix is trained."""
    head_size = known(model.head_size, "head_size")
    result = tokens * model.heads * head_size // one.tensor
    query = result * one.element
    key = others * one.keys(model) * head_size * one.element
    cheap = FP32 * tokens * model.heads // one.tensor
    cheap += query + key if model.position == "rotary" else 0
    if one.exchanges:  # context ranks exchange the result before the product that follows, which keeps what it got
        return query + 2 * key + projects * result * one.operand, cheap + query
    # The result lies in the order of the queries, as the product that follows reads it.
    return 2 * query + 2 * key + projects * result * one.copied, cheap


def exchanged_bytes(stack: StackSpec, one: Pass) -> list[int]:
    """Lists the bytes of what a context rank has of each exchange of a layer's forward pass: queries, keys and values, and the
    result."""
    model, tokens = stack.network, one.tokens(stack)
    each = known(model.head_size, "head_size") * one.element
    heads, keys = model.heads // one.tensor, one.keys(model)
    found = [tokens * (heads + 2 * keys) * each, tokens * heads * each]
    if stack.is_decoder:
        found += [tokens * heads * each, 2 * one.remembered * keys * each, tokens * heads * each]
    return found


def _mlp(model: ModelConfig, one: Pass, tokens: int, *, down: bool) -> tuple[int, int]:
    """Counts the activation function's argument, and its result if the matrix that multiplies it is trained."""
    numel = tokens * known(model.ffn, "ffn") // one.tensor
    ffn, result = numel * one.element, down * numel * one.operand
    if model.activation in ("swiglu", "geglu"):
        return 2 * ffn + result, ffn
    return ffn + (down * numel * one.copied if model.activation == "relu" else result), 0


def kept_half(stack: StackSpec, one: Pass) -> int:
    """Counts what a layer keeps if every second product's result is kept, and attention's, and all else computed again."""
    model, tokens = stack.network, one.tokens(stack)
    head_size = known(model.head_size, "head_size")
    query = tokens * model.heads * head_size // one.tensor
    key = tokens * known(model.kv_heads, "kv_heads") * head_size // one.tensor
    hidden = tokens // one.slices * model.hidden
    gated = 2 if model.activation in ("swiglu", "geglu") else 1
    results = query + 2 * key + gated * tokens * known(model.ffn, "ffn") // one.tensor + 2 * hidden
    return (hidden + query + results // 2) * one.element + FP32 * tokens * model.heads // one.tensor


def kept_scores(stack: StackSpec, one: Pass) -> int:
    """Counts what a layer keeps besides where attention is not fused, of each score: what softmax gives, what dropout leaves of
    it, and its mask (Korthikanti et al. 2022, table 2)."""
    tokens = one.tokens(stack)
    seen = (tokens + (one.remembered if stack.is_decoder else 0)) * one.context // one.rows(stack)
    return tokens * seen * stack.network.heads // one.tensor * (2 * one.element + 1)


def whole_logits(model: ModelConfig, one: Pass, each: int, *, gathered: bool) -> int:
    """Counts logits that are made at once, at so many bytes each, of all tensor ranks' if `gathered`."""
    width = known(padded(model, one.tensor).vocab_size, "vocab_size")
    return one.predicted * (width if gathered else width // one.tensor) * each


def kept_by_embedding(model: ModelConfig, one: Pass) -> int:
    """Counts token numbers, and the norm of the embeddings where there is one."""
    size = one.read // one.slices * model.word_size * one.element
    projected = size if model.word_size != model.hidden else 0
    return 3 * 8 * one.read * one.context + (size if model.normalises_embeddings else 0) + projected


def kept_by_heads(config: TrainingConfig, one: Pass) -> int:
    """Counts norms and dense layers between the last layer and the vocabulary, all heads together."""
    model = config.model
    hidden = one.written * model.hidden * one.element
    found = 2 * hidden // one.slices if model.ends_with_norm else 0
    if model.has_decoder and model.ends_with_norm:
        found += 2 * one.read * model.hidden * one.element // one.slices
    if not model.predicts_tokens:
        hidden *= one.context  # heads see whole sequences
        whole = hidden if one.slices * one.context > 1 else 0
        return found + whole + (3 * one.samples * model.hidden * one.element if model.scores_sequences else hidden)
    if model.is_encoder:
        found += hidden if one.slices > 1 else 0
        found += one.predicted * (model.hidden + 3 * model.word_size) * one.element
    for stack in model.stacks()[1:]:  # of a discriminator, a decision for each token
        found += 0 if stack.is_decoder else 3 * one.read * stack.network.hidden * one.element
    return found


def peak_of_loss(model: ModelConfig, one: Pass, *, trained: bool = True) -> int:
    """Counts the most that logits and their gradients take at once: a chunk of them, as loss and product are fused.

    Args:
        trained: the output matrix has a gradient.
    """
    if not model.predicts_tokens:
        scored = one.samples if model.scores_sequences else one.read * one.context
        return scored * max(1, model.num_labels) * (one.element + 2 * FP32)
    width = known(padded(model, one.tensor).vocab_size, "vocab_size") // one.tensor
    size, element = model.word_size, one.element
    rows = min(one.predicted, loss_chunk_rows(one.predicted, width))
    of_weight = width * size * (FP32 + (element if element < FP32 else 0))
    # A generator draws tokens by sums in twice the precision before it turns the logits into a gradient.
    copied = FP32 if all(stack.is_decoder for stack in model.stacks()[1:]) else 2 * FP32
    return rows * width * (element + copied) + one.predicted * size * element + of_weight * trained


def masks(model: ModelConfig, one: Pass) -> Iterator[int]:
    """Yields the bytes of each stack's table of biases that positions relative to each other add to the scores."""
    for stack in model.stacks():
        if model.position == "relative":
            length = one.tokens(stack) * one.context // one.rows(stack)
            yield stack.network.heads // one.tensor // one.context * length**2 * one.element


def working_set(stack: StackSpec, one: Pass) -> int:
    """Counts what the backward pass of one layer holds besides: gradients of its widest hidden states, and its input whole."""
    model, tokens = stack.network, one.tokens(stack)
    gated = 2 if model.activation in ("swiglu", "geglu") else 1
    wide = (1 + gated) * tokens * known(model.ffn, "ffn") // one.tensor
    return (wide + (2 + (one.slices > 1)) * tokens * model.hidden) * one.element
