"""How deep within its network each parameter lies, told from its name: for learning rates that fall towards the input."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from dist_plm.spec.families.tensors import head_of, tensors_of
from dist_plm.spec.schema import ModelConfig


def trained_from(step: int, every: int, layers: int) -> int:
    """Tells the least depth that the update after `step` others trains, where one more is trained after `every` updates
    (`train.unfreeze_every`), from the head at `layers` + 1 down; 0: all are."""
    return 0 if every == 0 else max(layers + 1 - step // every, 0)


@dataclass(frozen=True, slots=True)
class Depths:
    """Embeddings lie at depth 0, layers above them, heads at depth `layers` + 1. A decoder lies upon its encoder; two networks
    side by side end at the same depth.

    Args:
        modules: depth of each module all of whose tensors lie at one, by its name.
        heads: modules all of whose tensors are of the head.
    """

    layers: int
    modules: Mapping[str, int]
    heads: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: ModelConfig) -> "Depths":
        """Reads the table of a finalised model's tensors."""
        found: defaultdict[str, set[int]] = defaultdict(set)
        for tensor in tensors_of(model):
            parts = tensor.name.split(".")
            for end in range(1, len(parts)):
                found[".".join(parts[:end])].add(tensor.depth)
        modules = {name: depths.pop() for name, depths in found.items() if len(depths) == 1}
        return cls(model.top, modules, frozenset(name.rpartition(".")[0] for name in head_of(model)))

    def is_of_head(self, name: str) -> bool:
        """Tells whether a parameter is of the head, by its name in the model, whatever wraps it: layers have modules called
        `output` as heads do."""
        return self._module_of(name) in self.heads

    def of_parameter(self, name: str) -> int:
        """Tells the depth of a parameter by its name in the model, whatever wraps it. What is fused lies where its parts do,
        and what is no tensor of the model is a head."""
        module = self._module_of(name)
        return self.layers + 1 if module is None else self.modules[module]

    def _module_of(self, name: str) -> str | None:
        """Finds the longest of `modules` that a parameter lies in, from the front of its name; None where there is none."""
        parts = name.split(".")
        for begin in range(len(parts)):
            for end in range(len(parts), begin, -1):
                module = ".".join(parts[begin:end])
                if module in self.modules:
                    return module
        return None
