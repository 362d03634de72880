"""Declares ELECTRA (Clark et al. 2020): a small generator and a discriminator that share their embeddings."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from dist_plm.config.types import Count
from dist_plm.spec.families.base import Kind, ModelConfig, StackSpec, known
from dist_plm.spec.families.encoder import EncoderConfig

if TYPE_CHECKING:
    from dist_plm.spec.families.tensors import TensorTable
    from dist_plm.spec.objectives import ObjectiveConfig
    from dist_plm.spec.schema import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectraConfig(EncoderConfig):
    """ELECTRA, of which a task takes the discriminator's encoder alone. Sizes without `generator` are the discriminator's.
    Derived when None: `generator_hidden` = hidden / 4, `generator_layers` = layers, `generator_heads` = generator_hidden /
    head_size, `generator_ffn` = 4 generator_hidden."""

    kind: ClassVar[Kind] = "discriminator"
    projects_embeddings: ClassVar[bool] = True
    head_activation: ClassVar[Literal["tanh", "gelu"]] = "gelu"

    family: Literal["electra"] = "electra"
    generator_hidden: Count | None = None
    generator_layers: Count | None = None
    generator_heads: Count | None = None
    generator_ffn: Count | None = None

    @property
    def is_chain(self) -> bool:
        return not self.predicts_tokens

    @property
    def draws_tokens(self) -> bool:
        return self.predicts_tokens

    def stacks(self) -> tuple[StackSpec, ...]:
        """Lists the two networks, which stand side by side and end at the same depth; below another head the second alone."""
        if not self.predicts_tokens:
            return (StackSpec(prefix="discriminator.", network=self, layers=self.layers),)
        networks = {"generator.": generator_of(self), "discriminator.": self}
        top = max(network.layers for network in networks.values())
        return tuple(
            StackSpec(prefix=prefix, network=network, layers=network.layers, below=top - network.layers)
            for prefix, network in networks.items()
        )

    def add_inputs(self, table: "TensorTable", stack: StackSpec) -> None:
        """Adds the projection of the embeddings, where they are of another size."""
        hidden = stack.network.hidden
        if hidden != self.word_size:
            table.linear(f"{stack.prefix}project", hidden, self.word_size, depth=stack.below, multiplies="read")

    def add_heads(self, table: "TensorTable") -> None:
        table.token_head(generator_of(self))
        depth = self.top + 1
        table.linear("detector.dense", self.hidden, self.hidden, depth=depth, split=0, multiplies="read")
        table.linear("detector.classifier", 1, self.hidden, depth=depth, split=1, multiplies="read")

    def derive(self, objective: "ObjectiveConfig") -> Self:
        derived = super(ElectraConfig, self).derive(objective)
        hidden = self.generator_hidden or max(1, self.hidden // 4)
        return replace(
            derived,
            generator_hidden=hidden,
            generator_layers=self.generator_layers or self.layers,
            generator_heads=self.generator_heads or max(1, hidden // known(derived.head_size, "head_size")),
            generator_ffn=self.generator_ffn or 4 * hidden,
        )

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        yield from super(ElectraConfig, self).problems(config)
        if not self.predicts_tokens:
            return
        tensor, context = config.parallel.tensor, config.parallel.context
        hidden, heads = known(self.generator_hidden, "generator_hidden"), known(self.generator_heads, "generator_heads")
        if hidden % heads:
            yield (
                f"model.generator_hidden = {hidden} is not a multiple of model.generator_heads = {heads}: choose sizes that "
                "divide"
            )
        elif self.position == "rotary" and hidden // heads % 2:
            yield (
                f"model.position = 'rotary' turns pairs, but the generator's head size is {hidden // heads}, which is odd: "
                "choose another model.generator_hidden or model.generator_heads"
            )
        for key, size in (("generator_heads", heads), ("generator_ffn", known(self.generator_ffn, "generator_ffn"))):
            if size % tensor:
                yield (
                    f"model.{key} = {size} is not a multiple of parallel.tensor = {tensor}, over which it is split: lower "
                    f"parallel.tensor, or choose another model.{key}"
                )
        if heads % tensor == 0 and heads // tensor % context:
            yield (
                f"model.generator_heads = {heads} is not a multiple of parallel.tensor = {tensor} x parallel.context = "
                f"{context}, over which it is split: lower parallel.context, or choose another model.generator_heads"
            )


def generator_of(model: ModelConfig) -> ElectraConfig:
    """Returns the generator's network: the discriminator's at its own size, with the embeddings of the discriminator."""
    assert isinstance(model, ElectraConfig)
    hidden, heads = known(model.generator_hidden, "generator_hidden"), known(model.generator_heads, "generator_heads")
    return replace(
        model,
        hidden=hidden,
        layers=known(model.generator_layers, "generator_layers"),
        heads=heads,
        kv_heads=heads,
        head_size=hidden // heads,
        ffn=model.generator_ffn,
    )
