"""Tells which tensors of a model train.freeze names."""

import re
from collections.abc import Iterable, Iterator, Mapping

from dist_plm.config.decode import show
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.spec.families.base import ModelConfig
from dist_plm.spec.families.lora import is_adapter
from dist_plm.spec.families.tensors import head_of, tensors_of

#: Six digits: no model has a million layers, and Python reads no number of thousands of digits.
_RANGE = re.compile(r"(.*\blayers)\.([0-9]{1,6})-([0-9]{1,6})")


def frozen_tensors(model: ModelConfig, freeze: Iterable[str]) -> frozenset[str]:
    """Lists the tensors that are not trained, by canonical name, of a finalised model and names that `freeze_problems` finds
    nothing wrong with."""
    parts = _parts(model) if freeze else {}
    named = frozenset(tensor for name in freeze for one in _expanded(name) for tensor in parts[one])
    return named if model.lora is None else named | _beside_adapters(model)


def _beside_adapters(model: ModelConfig) -> frozenset[str]:
    """Lists what is not trained where there are adapters: all but them, and the head of a task."""
    head = frozenset() if model.predicts_tokens else head_of(model)
    return frozenset(one.name for one in tensors_of(model) if not is_adapter(one.name)) - head


def freeze_problems(model: ModelConfig, freeze: Iterable[str]) -> Iterator[str]:
    """Yields a sentence for each name that is no part of a finalised model, and where nothing is left to train."""
    freeze = list(freeze)
    if not freeze:
        return
    parts, wrong = _parts(model), False
    for name in freeze:
        unknown = [one for one in _expanded(name) if one not in parts]
        if unknown or not _expanded(name):
            wrong = True
            yield f"train.freeze has {show(name)}, which is no part of this model{_hint(name, unknown, parts)}"
    if not wrong and len(frozen_tensors(model, freeze)) == len(tensors_of(model)):
        yield f"train.freeze = {show(freeze)} leaves nothing to train: name fewer parts"


def _parts(model: ModelConfig) -> Mapping[str, frozenset[str]]:
    """Maps the names of parts to their tensors."""
    names, head = [tensor.name for tensor in tensors_of(model)], head_of(model)
    parts = {
        "embeddings": frozenset(name for name in names if name.startswith("embedding.")),
        "head": head,
        "all_but_head": frozenset(names) - head,
    }
    stacks = model.stacks()
    for stack in stacks:
        # The only stack goes by no name.
        for prefix in (stack.prefix, "") if len(stacks) == 1 else (stack.prefix,):
            for part in ("layers", *(f"layers.{layer}" for layer in range(stack.layers))):
                parts[f"{prefix}{part}"] = frozenset(
                    name for name in names if name.startswith(f"{stack.prefix}{part}.")
                )
    for name in names:
        first = name.partition(".")[0]
        parts.setdefault(first, frozenset(other for other in names if other.startswith(f"{first}.")))
    return {name: tensors for name, tensors in parts.items() if tensors}


def _expanded(name: str) -> list[str]:
    """Gives the names of the layers of a range, or the name itself."""
    found = _RANGE.fullmatch(name)
    if found is None:
        return [name]
    return [f"{found[1]}.{layer}" for layer in range(int(found[2]), int(found[3]) + 1)]


def _hint(name: str, unknown: list[str], parts: Mapping[str, frozenset[str]]) -> str:
    if _RANGE.fullmatch(name):
        if not unknown:
            return ": the first layer of a range comes first"
        stack = unknown[0].rpartition(".")[0]
        if layers := [part for part in parts if part.rpartition(".")[0] == stack]:
            return f", whose last layer is {layers[-1]}"
    whole = [part for part in parts if not part[-1].isdigit()]
    return did_you_mean(near(name, parts)) or f": it has {', '.join(sorted(whole))}, and layers as in layers.0-5"
