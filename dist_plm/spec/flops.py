"""Parameters and model FLOPs of a transformer, counted from its configuration.

Model FLOPs are those the mathematics needs, whatever the implementation does: a multiply-add is two, the backward pass
is twice the forward, recomputed activations do not count, and attention counts every pair of positions although a
causal mask spares half. This is the convention of PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B) and of
Megatron-LM (Narayanan et al. 2021, arXiv 2104.04473, equation 3 with 72 for 96, as nothing is recomputed), so the
utilisation compares with what they and most others publish. Norms, softmax and activations are left out, as there.

The model has to be resolved: no size in it may still be None.
"""

from dataclasses import replace

from dist_plm.spec.families.base import StackSpec, known
from dist_plm.spec.families.tensors import tensors_of
from dist_plm.spec.objectives.base import ONE_ROW, ObjectiveConfig, SampleRows
from dist_plm.spec.schema import ModelConfig


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
) -> int:
    """Model FLOPs of one optimizer step over `num_samples` sequences, on all devices together.

    Args:
        predicted: share of the tokens whose logits are needed; the masked ones of a masked language model.
        target_length: tokens that an encoder-decoder writes for each sequence; as many as it reads if None.
        rows: those of a sample. Several texts that are written of one row look back at the same states.
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
    forward = sum(2 * one.numel * vectors[one.multiplies] for one in tensors_of(model) if one.multiplies is not None)
    for stack in model.stacks():
        count = rows.written if stack.is_decoder else rows.read
        forward += count * _attention_flops(stack, sequence_length, written)
    return round(3 * num_samples * forward)


def step_flops(model: ModelConfig, objective: ObjectiveConfig, sequence_length: int, num_samples: int) -> int:
    """Counts the model FLOPs of one step: masked models predict the masked tokens alone, the decoder of span corruption writes
    its targets, and of several choices each is a row."""
    return flops_per_step(
        model,
        sequence_length,
        num_samples,
        predicted=objective.predicted_share,
        target_length=objective.target_length(sequence_length),
        rows=objective.rows_of_sample(model),
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


def _attention_flops(stack: StackSpec, read: int, written: int) -> int:
    """Scores and weighted sums of one sequence in a stack: of all tokens to each other, and of a decoder's to those read."""
    width = stack.network.heads * known(stack.network.head_size, "head_size")
    pairs = written * (written + read) if stack.is_decoder else read * read
    return stack.layers * 4 * pairs * width
