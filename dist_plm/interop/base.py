"""Checkpoints that other programs wrote, as logical tensors under canonical names.

What lies where is a reader's (`megatron_dist`, `zero_files`); what it is called and fused with, a table's (`models.*_names`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from dist_plm.checkpoint.fragments import checkpoint_name
from dist_plm.core.errors import CheckpointError
from dist_plm.interop.megatron.arguments import meant_otherwise
from dist_plm.interop.megatron.names import Meaning, Sizes, logical_shapes, logical_tensors, meaning_of
from dist_plm.models.sharding import Shard


class ForeignCheckpoint(Protocol):
    """A checkpoint of another program.

    Args:
        where: its path, for messages.
        step: updates made.
        samples: used up by then; None where it does not tell.
        optimizer_steps: as its optimizer counted them.
        settings: the command line that it holds, or nothing.
        tensor_ranks: ranks that each hold their share of what is split.
        shapes: of what one tensor rank holds, by name, layers numbered.
        states: "weight" and those of the optimizer; all tensors have them.
    """

    where: str
    step: int
    samples: int | None
    optimizer_steps: int
    settings: Mapping[str, Any]
    tensor_ranks: int
    shapes: Mapping[str, tuple[int, ...]]
    states: Sequence[str]

    def read(self, state: str, name: str) -> list[Tensor]:
        """Reads what each tensor rank holds of `state`."""
        ...


@dataclass(frozen=True, slots=True)
class ForeignTensor:
    """A tensor of a foreign checkpoint, and what is in it: `shapes` of logical tensors by canonical name, and `take`, which
    makes them from what the tensor ranks hold."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    take: Callable[[Sequence[Tensor]], dict[str, Tensor]]


class Translated:
    """A foreign checkpoint under canonical names; of one of its tensors at a time the values are in memory.

    Raises:
        CheckpointError: two of its tensors are the same logical one.
    """

    def __init__(self, found: ForeignCheckpoint, tensors: Sequence[ForeignTensor]) -> None:
        self._found = found
        self._sources: dict[str, tuple[str, ForeignTensor, str]] = {}
        self.weights: dict[str, tuple[int, ...]] = {}
        for stored in tensors:
            for name, shape in stored.shapes.items():
                if name in self.weights:
                    raise CheckpointError(
                        f"{found.where} holds {name} more than once, the second time as {stored.name}"
                    )
                self.weights[name] = shape
                for state in found.states:
                    self._sources[checkpoint_name(state, name)] = (state, stored, name)
        self.shapes = {name: stored.shapes[own] for name, (_, stored, own) in self._sources.items()}
        self._last: tuple[str, str] | None = None
        self._taken: dict[str, Tensor] = {}

    def read(self, box: Shard) -> Tensor:
        """The values of a box of the tensor box.name, one of `shapes`."""
        state, stored, name = self._sources[box.name]
        if self._last != (state, stored.name):
            self._taken = stored.take([part.float() for part in self._found.read(state, stored.name)])
            self._last = (state, stored.name)
        return box.whole(self._taken[name])


def megatron_tensors(found: ForeignCheckpoint, *, kv_heads: int | None, vocab_size: int | None) -> list[ForeignTensor]:
    """Tells what the tensors of a Megatron GPT are.

    Args:
        kv_heads, vocab_size: what the user says; None takes what the checkpoint's own command line does.

    Raises:
        CheckpointError: a name is not known, a layer is not whole, or a size is told by nobody.
    """
    if otherwise := meant_otherwise(found.settings):
        raise CheckpointError(
            f"{found.where} was trained with {', '.join(otherwise)}, under which its tensors mean what this program's do not"
        )
    meanings = {name: meaning_of(name) for name in found.shapes}
    if unknown := [name for name, meaning in meanings.items() if meaning is None]:
        raise CheckpointError(f"{found.where} holds tensors whose names are not those of a GPT: {_some(unknown)}")
    known = {name: meaning for name, meaning in meanings.items() if meaning is not None}
    _check_layers(found, [meaning.name for meaning in known.values()])
    sizes = _sizes(found, known, kv_heads, vocab_size)
    shape_of = {meaning.name: found.shapes[name] for name, meaning in known.items()}
    result = []
    for name, meaning in known.items():
        layer = meaning.name.partition(".attention.")[0].partition(".mlp.")[0]
        down, output = shape_of.get(f"{layer}.mlp.down.weight"), shape_of.get(f"{layer}.attention.output.weight")
        shapes = logical_shapes(
            meaning,
            found.shapes[name],
            sizes,
            ranks=found.tensor_ranks,
            gated=down is not None and found.shapes[name][0] == 2 * down[1],
            head_rows=output[1] * found.tensor_ranks if output else 0,
        )
        if meaning.fusion == "qkv":
            _check_groups(found, name, [shape[0] for shape in shapes.values()], sizes.kv_heads)
        result.append(ForeignTensor(name, shapes, _taking(meaning, shapes, sizes)))
    return result


def _taking(
    meaning: Meaning, shapes: Mapping[str, tuple[int, ...]], sizes: Sizes
) -> Callable[[Sequence[Tensor]], dict[str, Tensor]]:
    return lambda held: logical_tensors(meaning, held, shapes, sizes)


def _sizes(
    found: ForeignCheckpoint, known: Mapping[str, Meaning], kv_heads: int | None, vocab_size: int | None
) -> Sizes:
    settings = found.settings
    grouped = settings.get("num_query_groups") if settings.get("group_query_attention") else None
    told = grouped or settings.get("num_attention_heads")
    if kv_heads is not None and told is not None and kv_heads != told:
        raise CheckpointError(
            f"kv_heads = {kv_heads} is not what {found.where} tells itself, which was trained with {told}: leave it out"
        )
    kv_heads = kv_heads or told
    if kv_heads is None:
        raise CheckpointError(
            f"{found.where} does not tell how many heads share the fused queries, keys and values: give kv_heads=N, the "
            "number of its query groups, or of its heads where each has its own"
        )
    vocab_size = vocab_size or settings.get("vocab_size")
    name = next(name for name, meaning in known.items() if meaning.name == "embedding.word.weight")
    rows = found.shapes[name][0] * found.tensor_ranks
    if vocab_size is None:
        raise CheckpointError(
            f"{found.where} does not tell how many of the {rows:,} rows of {name} stand for a token: give vocab_size=N, that "
            f"of its tokenizer (vocab_size={rows} keeps all)"
        )
    if vocab_size > rows:
        raise CheckpointError(f"vocab_size = {vocab_size:,} is more than the {rows:,} rows of {name} in {found.where}")
    return Sizes(kv_heads, vocab_size)


def _check_groups(found: ForeignCheckpoint, name: str, rows: Sequence[int], kv_heads: int) -> None:
    """Each group has as many of the `rows` of queries, keys and values as the others, and each tensor rank whole groups."""
    _, keys, _ = rows
    if keys <= 0 or keys % kv_heads or rows[0] % keys:
        raise CheckpointError(
            f"kv_heads = {kv_heads} does not fit {name} in {found.where}, whose rows are of {rows[0]} numbers of queries and "
            f"{keys} of keys: give kv_heads=N, the number of its query groups, or of its heads where each has its own"
        )
    if kv_heads % found.tensor_ranks:
        raise CheckpointError(
            f"kv_heads = {kv_heads} is not a multiple of the {found.tensor_ranks} tensor ranks of {found.where}, each of which "
            "holds whole query groups: give kv_heads=N, the number of all"
        )


def _check_layers(found: ForeignCheckpoint, names: Sequence[str]) -> None:
    """Each layer has the same tensors, none is missing between the first and the last, and the ends are there."""
    layers: dict[int, set[str]] = {}
    for name in names:
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            layers.setdefault(int(number), set()).add(rest)
    every = set().union(*layers.values())
    missing = [
        f"layers.{number}.{rest}"
        for number in range(max(layers, default=-1) + 1)
        for rest in sorted(every - layers.get(number, set()))
    ]
    missing += [name for name in ("embedding.word.weight", "final_norm.weight") if name not in names]
    if missing:
        raise CheckpointError(f"{found.where} holds nothing for {_some(missing)}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
