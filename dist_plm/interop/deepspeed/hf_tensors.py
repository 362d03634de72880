"""Checkpoints of other programs whose tensors have Hugging Face's names, as those of its models trained by DeepSpeed."""

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from dist_plm.core.errors import CheckpointError
from dist_plm.interop.base import ForeignCheckpoint, ForeignTensor
from dist_plm.interop.hf.base import HFModel, HFTensor
from dist_plm.interop.hf.registry import recognised
from dist_plm.spec.schema import ModelConfig

_VOCABULARY = ("embedding.word.weight", "output.weight", "output.bias")


def is_hf(names: Collection[str]) -> bool:
    """Whether these are the tensors of a model of Hugging Face that `hf_stored` knows."""
    return recognised(names) is not None


def hf_stored(found: ForeignCheckpoint, *, vocab_size: int | None) -> list[ForeignTensor]:
    """Tells what the tensors of a Hugging Face model are.

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
    for entry in _theirs(found.shapes).tensors(model_of(found.shapes)):
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
    return _theirs(shapes).model_from_shapes(shapes)


def _theirs(shapes: Mapping[str, tuple[int, ...]]) -> HFModel:
    found = recognised(shapes.keys())
    assert found is not None, "is_hf has told so"
    return found


def _stored(name: str, entries: Sequence[HFTensor], shape: tuple[int, ...], vocab_size: int | None) -> ForeignTensor:
    shapes = {}
    for entry in entries:
        rows, *rest = reversed(shape) if entry.transposed else shape
        rows = rows // entry.part[1] if entry.part else rows
        shapes[entry.name] = (min(rows, vocab_size or rows) if entry.name in _VOCABULARY else rows, *rest)

    def take(held: Sequence[Tensor]) -> dict[str, Tensor]:
        return {entry.name: entry.logical(held[0])[: shapes[entry.name][0]] for entry in entries}

    return ForeignTensor(name, shapes, take)
