"""How deep within its network each parameter lies, told from its name: for learning rates that fall towards the input."""

from collections.abc import Mapping
from dataclasses import dataclass

from dist_plm.spec.derived import ENCODER_DECODERS
from dist_plm.spec.schema import ModelConfig


@dataclass(frozen=True, slots=True)
class Depths:
    """Embeddings lie at depth 0, layers above them, heads at depth `layers` + 1.

    Args:
        stacks: the layers of each stack, as a range within `layers`, by the module that holds it ("" where it is the
            model itself). A decoder lies upon its encoder; two networks side by side end at the same depth.
    """

    layers: int
    stacks: Mapping[str, range]

    @classmethod
    def of(cls, model: ModelConfig) -> "Depths":
        """Counts the layers of a finalised model."""
        layers = model.layers
        if model.family in ENCODER_DECODERS:
            assert model.decoder_layers is not None
            total = layers + model.decoder_layers
            return cls(total, {"encoder": range(layers), "decoder": range(layers, total)})
        if model.family == "electra":
            assert model.generator_layers is not None
            total = max(layers, model.generator_layers)
            sizes = {"generator": model.generator_layers, "discriminator": layers}
            return cls(total, {name: range(total - size, total) for name, size in sizes.items()})
        return cls(layers, {"": range(layers)})

    def of_parameter(self, name: str) -> int:
        """Gives the depth of a parameter by its name in the model, whatever wraps it. A stack's own projection of its
        input and relative positions lie below its layers, its last norm above them."""
        if "embedding" in name.split("."):
            return 0
        for module, layers in self.stacks.items():
            _, found, rest = f".{name}".partition(f".{module}." if module else ".layers.")
            if not found:
                continue
            rest = rest.removeprefix("layers.")
            number = rest.partition(".")[0]
            if number.isdecimal():
                return layers[int(number)] + 1
            return layers.start if rest.startswith(("project.", "relative.")) else layers.stop + 1
        return self.layers + 1
