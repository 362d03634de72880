"""Declares what every engine's section has, and what the rest of the system asks of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from dist_plm.config.bounds import between
from dist_plm.config.types import Count

if TYPE_CHECKING:
    from dist_plm.spec.schema import PrecisionConfig, TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Says what a rank keeps of each element of its parameters between its passes: bytes, and by how many data ranks what is
    kept is divided. Moments are divided as masters are.

    Args:
        gradients: of their sums over microbatches.
        copies: of gradients as the update reads them, where these are other tensors; divided as masters are.
        masters: 0 where the weights themselves are updated.
        moments: of each moment.
        bucket: of a buffer that gradients go through, where it is not theirs; it is as large for a small model.
        whole_gradients: a rank keeps all of a gradient of which some lies in its share.
        gathers: weights are put together for the layers that run.
        moves_weights: an engine begins with a buffer of gradients, and one that trained weights are copied to.
        states_on_host, weights_on_host: masters and moments, or weights as well, lie in the memory of the host.
    """

    weights: int
    weights_over: int = 1
    gradients: int = 4
    gradients_over: int = 1
    copies: int = 0
    masters: int = 0
    masters_over: int = 1
    moments: int = 4
    bucket: int = 0
    whole_gradients: bool = False
    gathers: bool = False
    moves_weights: bool = False
    states_on_host: bool = False
    weights_on_host: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """`zero_stage` says what is sharded over data ranks: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too.
    `compile`: `layers` by torch.compile (on several tensor ranks their pieces), `off`, or `auto`, which is `layers` on CUDA."""

    #: Stages of ZeRO that it has on some grid.
    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    #: Each microbatch but the first and the last of a step does what the one before it did.
    passes_repeat: ClassVar[bool] = True

    name: str
    zero_stage: Annotated[int, between(0, 3)] = 1
    bucket_mib: Count = 160
    compile: Literal["auto", "off", "layers"] = "auto"

    @property
    def body_module(self) -> str:
        """Names the module that has its body."""
        return f"dist_plm.engines.{self.name}.engine"

    @property
    def own_keys(self) -> dict[str, Any]:
        """Keys that are handed through to a library, which alone knows them."""
        return {}

    def holding(self, precision: "PrecisionConfig", data: int) -> Holding:
        """Says what each of `data` ranks keeps of parameters that they all train."""
        raise NotImplementedError

    def overlaps(self, *, on_gpus: bool) -> bool:
        """Whether gradients are reduced while the backward pass still runs."""
        return False

    def overlaps_gather(self, *, on_gpus: bool) -> bool:
        """Whether updated weights are gathered while the forward pass already runs."""
        return False

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        """Yields a sentence for each thing that the engine cannot do as `config` wants it."""
        yield from ()

    def compile_problems(self) -> Iterator[str]:
        """Yields a sentence for each reason why layers cannot be compiled."""
        if self.zero_stage == 3:
            yield (
                "engine.compile = 'layers' does not work with engine.zero_stage = 3, which puts weights together while a "
                "layer runs: set engine.compile=off, or engine.zero_stage=2"
            )
