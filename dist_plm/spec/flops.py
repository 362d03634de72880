"""Parameters and model FLOPs of a transformer, counted from its configuration.

Model FLOPs are those the mathematics needs, whatever the implementation does: a multiply-add is two, the backward pass
is twice the forward, recomputed activations do not count, and attention counts every pair of positions although a
causal mask spares half. This is the convention of PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B) and of
Megatron-LM (Narayanan et al. 2021, arXiv 2104.04473, equation 3 with 72 for 96, as nothing is recomputed), so the
utilisation compares with what they and most others publish. Norms, softmax and activations are left out, as there.

Where weights are frozen, the half of a backward pass that is their gradients does not count, nor the half that is gradients of
what a product reads, where nothing is trained that this depends on.

The model has to be resolved: no size in it may still be None.
"""

import math
import re
from collections.abc import Collection
from dataclasses import replace

from dist_plm.spec.families.base import StackSpec, known
from dist_plm.spec.families.tensors import TensorSpec, tensors_of
from dist_plm.spec.objectives.base import ONE_ROW, ObjectiveConfig, SampleRows
from dist_plm.spec.schema import ModelConfig

#: Where a tensor stands in a forward pass: its depth, the part of a layer, and the place in that.
_Place = tuple[float, float, float]
_PARTS = ("attention", "cross", "mlp")
_OF_LAYER = re.compile(rf".*\blayers\.\d+\.({'|'.join(_PARTS)})(_norm)?\.(\w+)(\.lora_b)?.*")
#: Places in a part of a layer: of a norm before it, of what reads the hidden states, what adds to them, and a norm after it.
_BEFORE, _READS, _ADDS, _AFTER = range(4)


def num_parameters(model: ModelConfig, *, vocab_size: int | None = None) -> int:
    """Trainable parameters of the whole model, without the padding of the vocabulary. Those of ELECTRA are of both halves.

    Args:
        vocab_size: counts with this vocabulary in place of the model's, say the padded one.
    """
    if vocab_size is not None:
        model = replace(model, vocab_size=vocab_size)
    return sum(tensor.numel for tensor in tensors_of(model))


def flops_per_step(
    model: ModelConfig,
    sequence_length: int,
    num_samples: int,
    *,
    predicted: float = 1.0,
    target_length: int | None = None,
    rows: SampleRows = ONE_ROW,
    frozen: Collection[str] = (),
) -> int:
    """Model FLOPs of one optimizer step over `num_samples` sequences, on all devices together.

    Args:
        predicted: share of the tokens whose logits are needed; the masked ones of a masked language model.
        target_length: tokens that an encoder-decoder writes for each sequence; as many as it reads if None.
        rows: those of a sample. Several texts that are written of one row look back at the same states.
        frozen: canonical names of tensors that are not trained.
    """
    written = sequence_length
    if model.has_decoder and target_length is not None:
        written = target_length
    read_tokens = rows.read * sequence_length
    written_tokens = rows.written * written if model.has_decoder else read_tokens
    predictions = written_tokens if predicted == 1.0 else predicted * written_tokens
    vectors = {
        "read": read_tokens,
        "written": written_tokens,
        "predicted": predictions,
        "sample": rows.read,
    }
    flow, flops = _GradientFlow(model, frozen), 0
    for row, one in enumerate(tensors_of(model)):
        if one.multiplies is not None:
            passes = 1 + (one.name not in frozen) + flow.reaches(one, row)
            flops += passes * 2 * one.numel * vectors[one.multiplies]
    for stack in model.stacks():
        count = rows.written if stack.is_decoder else rows.read
        layers = sum(3 if flow.attends(stack, layer) else 1 for layer in range(stack.layers))
        flops += layers * count * _attention_flops(stack, sequence_length, written)
    return round(num_samples * flops)


def step_flops(
    model: ModelConfig,
    objective: ObjectiveConfig,
    sequence_length: int,
    num_samples: int,
    frozen: Collection[str] = (),
) -> int:
    """Counts the model FLOPs of one step: masked models predict the masked tokens alone, the decoder of span corruption writes
    its targets, and of several choices each is a row."""
    return flops_per_step(
        model,
        sequence_length,
        num_samples,
        predicted=objective.predicted_share,
        target_length=objective.target_length(sequence_length),
        rows=objective.rows_of_sample(model),
        frozen=frozen,
    )


def head_in_layers(model: ModelConfig, objective: ObjectiveConfig, sequence_length: int) -> float:
    """Gives the work of what follows the layers of one stack, in layers: by the FLOPs of such models of one and two layers."""
    one, two = (step_flops(replace(model, layers=count), objective, sequence_length, 1) for count in (1, 2))
    return (2 * one - two) / (two - one)


def flops_per_token(model: ModelConfig, sequence_length: int) -> int:
    """Model FLOPs of the forward and backward pass for one token of a sequence of `sequence_length` tokens, where a model
    of one stack predicts every token, and an encoder-decoder writes as many as it reads."""
    return flops_per_step(model, sequence_length, 1) // sequence_length


def utilisation(flops: float, seconds: float, peak_tflops: float | None) -> float | None:
    """Model FLOPs utilisation (PaLM, appendix B): what was computed over what could have been, from 0 to 1.

    Args:
        flops: model FLOPs done in `seconds`.
        peak_tflops: of all devices together, in 10^12 FLOP/s; None where unknown, and then the result is None.
    """
    if peak_tflops is None or seconds <= 0:
        return None
    return flops / seconds / (peak_tflops * 1e12)


class _GradientFlow:
    """Tells what of a backward pass there is, where tensors named `frozen` are not trained: whether what a product reads
    depends on something that is."""

    def __init__(self, model: ModelConfig, frozen: Collection[str]) -> None:
        self._model, self._frozen, self._stacks = model, frozen, model.stacks()
        self._lowest: dict[str, _Place] = {}
        for row, one in enumerate(tensors_of(model)):
            if one.name not in frozen:
                branch, place = self._branch(one.name), self._place(one, row)
                self._lowest[branch] = min(place, self._lowest.get(branch, place))

    def reaches(self, one: TensorSpec, row: int) -> bool:
        """Whether the input of the matrix in this row of the table has a gradient."""
        if not self._frozen or "embedding" in self._lowest:
            return True
        if one.name.startswith("embedding."):  # tied to the output
            return self._depends(self._branch("output"), (math.inf, 0, 0))
        if ".cross.key." in one.name or ".cross.value." in one.name:
            own = one.name.endswith("lora_b") and f"{one.name.removesuffix('b')}a" not in self._frozen
            return own or self._stacks[0].prefix in self._lowest
        return self._depends(self._branch(one.name), self._place(one, row))

    def attends(self, stack: StackSpec, layer: int) -> bool:
        """Whether the attention of a layer has a gradient; a decoder's two are taken together."""
        part = "cross" if stack.is_decoder else "attention"
        place = (stack.below + layer + 1, _PARTS.index(part), _ADDS)
        return not self._frozen or "embedding" in self._lowest or self._depends(stack.prefix, place)

    def _depends(self, branch: str, place: _Place) -> bool:
        first, last = self._stacks[0], self._stacks[-1]
        # What a decoder's first layer knows of its encoder it has from its cross attention.
        reads = last.is_decoder and branch == last.prefix and place >= (last.below + 1, _PARTS.index("cross"), _ADDS)
        return self._lowest.get(branch, place) < place or (reads and first.prefix in self._lowest)

    def _branch(self, name: str) -> str:
        """Names the stack that a tensor is part of, or lies above; all depend on the embedding."""
        if name.startswith("embedding."):
            return "embedding"
        if self._model.draws_tokens and name.startswith("detector."):  # of two networks side by side
            return self._stacks[1].prefix
        head = self._stacks[0 if self._model.draws_tokens else -1].prefix
        return next((stack.prefix for stack in self._stacks if stack.prefix and name.startswith(stack.prefix)), head)

    def _place(self, one: TensorSpec, row: int) -> _Place:
        if found := _OF_LAYER.fullmatch(one.name):
            part, norm, name, is_second = found.groups()
            place = _READS if name in ("query", "key", "value", "gate", "up") else _ADDS
            if norm:
                place = _BEFORE if self._model.norm_placement == "pre" else _AFTER
            return one.depth, _PARTS.index(part), place + (0.5 if is_second else 0)
        if one.name.endswith("relative.weight"):  # of the scores of all layers
            return one.depth + 1, 0, _READS
        return one.depth, len(_PARTS), row


def _attention_flops(stack: StackSpec, read: int, written: int) -> int:
    """Scores and weighted sums of one sequence in a layer of a stack: of all tokens to each other, and of a decoder's to those
    that are read."""
    width = stack.network.heads * known(stack.network.head_size, "head_size")
    pairs = written * (written + read) if stack.is_decoder else read * read
    return 4 * pairs * width
