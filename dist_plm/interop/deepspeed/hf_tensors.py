"""Checkpoints of other programs whose tensors have Hugging Face's names, as those of its models trained by DeepSpeed."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from dist_plm.core.errors import CheckpointError
from dist_plm.interop.base import Foreign, Stored
from dist_plm.interop.hf.names import HFTensor, hf_tensors
from dist_plm.spec.schema import ModelConfig

#: Of each family, a tensor that no other has.
_SIGNS = {
    "transformer.wte.weight": "gpt2",
    "model.embed_tokens.weight": "llama",
    "bert.embeddings.word_embeddings.weight": "bert",
    "roberta.embeddings.word_embeddings.weight": "roberta",
    "shared.weight": "t5",
}
_VOCABULARY = ("embedding.word.weight", "output.weight", "output.bias")


def is_hf(names: Sequence[str]) -> bool:
    """Whether these are the tensors of a model of Hugging Face that `hf_stored` knows."""
    return any(sign in names for sign in _SIGNS)


def hf_stored(found: Foreign, *, vocab_size: int | None) -> list[Stored]:
    """What the tensors of a Hugging Face model are.

    Args:
        vocab_size: rows that stand for a token; None for all.

    Raises:
        CheckpointError: tensors are left over or missing.
    """
    if found.tensor_ranks > 1:
        raise CheckpointError(
            f"{found.where} holds a model of Hugging Face split over {found.tensor_ranks} model ranks, whose slices say "
            "nothing of the dim that was cut: save it without tensor parallelism"
        )
    entries: dict[str, list[HFTensor]] = {}
    for entry in hf_tensors(model_of(found.shapes)):
        entries.setdefault(entry.hf, []).append(entry)
    missing = sorted(entries.keys() - found.shapes.keys())
    unknown = sorted(found.shapes.keys() - entries.keys())
    if missing or unknown:
        parts = [f"it lacks {', '.join(missing[:5])}"] * bool(missing) + [f"unknown: {', '.join(unknown[:5])}"] * bool(
            unknown
        )
        raise CheckpointError(f"{found.where} is not a whole model of Hugging Face that is known: {'; '.join(parts)}")
    return [_stored(name, of_name, found.shapes[name], vocab_size) for name, of_name in entries.items()]


def model_of(shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    """As much of a model as names and shapes tell: which tensors there are, not how heads divide them."""
    kind = next(_SIGNS[name] for name in shapes if name in _SIGNS)
    word = next(shape for name, shape in shapes.items() if name in _SIGNS)
    tied = "lm_head.weight" not in shapes
    if kind in ("gpt2", "llama"):
        stack, position = ("transformer.h", "learned") if kind == "gpt2" else ("model.layers", "rotary")
        return ModelConfig(
            family="gpt", layers=_count(shapes, stack), hidden=word[1], heads=1, position=position, tied_embeddings=tied
        )
    if kind == "t5":
        return ModelConfig(
            family="t5",
            layers=_count(shapes, "encoder.block"),
            decoder_layers=_count(shapes, "decoder.block"),
            hidden=word[1],
            heads=1,
            position="relative",
            activation="geglu" if any(name.endswith("wi_0.weight") for name in shapes) else "relu",
            tied_embeddings=tied,
        )
    segments = shapes.get(f"{kind}.embeddings.token_type_embeddings.weight", (0,))[0]
    return ModelConfig(
        family="bert" if kind == "bert" else "roberta",
        layers=_count(shapes, f"{kind}.encoder.layer"),
        hidden=word[1],
        embedding_size=word[1],
        heads=1,
        segments=segments,
        pair_head="cls.seq_relationship.weight" in shapes,
    )


def _count(shapes: Mapping[str, tuple[int, ...]], stack: str) -> int:
    numbers = [re.match(rf"{re.escape(stack)}\.(\d+)\.", name) for name in shapes]
    return max((int(number[1]) for number in numbers if number), default=-1) + 1


def _stored(name: str, entries: Sequence[HFTensor], shape: tuple[int, ...], vocab_size: int | None) -> Stored:
    shapes = {}
    for entry in entries:
        rows, *rest = reversed(shape) if entry.transposed else shape
        rows = rows // entry.part[1] if entry.part else rows
        shapes[entry.name] = (min(rows, vocab_size or rows) if entry.name in _VOCABULARY else rows, *rest)

    def take(held: Sequence[Tensor]) -> dict[str, Tensor]:
        return {entry.name: entry.logical(held[0])[: shapes[entry.name][0]] for entry in entries}

    return Stored(name, shapes, take)
