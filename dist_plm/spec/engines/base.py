"""Declares what every engine's section has, and what the rest of the system asks of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from dist_plm.config.bounds import between
from dist_plm.config.types import Count

if TYPE_CHECKING:
    from dist_plm.spec.schema import PretrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """`zero_stage` says what is sharded over data ranks: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too."""

    #: Its layers can multiply in 8 bits.
    supports_fp8: ClassVar[bool] = False
    #: A parameter group may be empty on some pipeline stages.
    keeps_empty_groups: ClassVar[bool] = True

    name: str
    zero_stage: Annotated[int, between(0, 3)] = 1
    bucket_mib: Count = 160

    @property
    def own_keys(self) -> dict[str, Any]:
        """Keys that are handed through to a library, which alone knows them."""
        return {}

    def problems(self, config: "PretrainConfig") -> Iterator[str]:
        """Yields a sentence for each thing that the engine cannot do as `config` wants it."""
        yield from ()
