"""Declares what every optimizer's section has, and what the rest of the system asks of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dist_plm.config.bounds import Bounds, at_least
from dist_plm.config.types import Count, NonNegative, Positive

if TYPE_CHECKING:
    from dist_plm.spec.schema import PretrainConfig

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """The update rule.

    `lr` is the peak; with `lr_batch`, the peak of a run of that global batch, from which it is scaled to this run's."""

    #: An update looks at whole logical tensors, wherever their parts lie.
    whole_tensors: ClassVar[bool] = False

    name: str
    lr: Positive
    lr_batch: Count | None = None
    lr_scaling: Literal["linear", "sqrt"] = "sqrt"  # with the global batch; acts with lr_batch
    weight_decay: NonNegative = 0.1
    decay_norms_and_biases: bool = False
    layer_decay: Annotated[float, Bounds(low=0.0, high=1.0, low_open=True)] = 1.0  # of the rate, a layer downwards
    clip_norm: Annotated[float, at_least(0)] = 1.0  # of the global gradient; 0 turns clipping off

    @property
    def clip_threshold(self) -> float:
        """The global gradient norm above which gradients are scaled down to it; 0 for none."""
        return self.clip_norm

    @property
    def adapts_vectors(self) -> bool:
        """Whether norms and biases take part in what an optimizer does layer by layer."""
        return False

    def moments(self, shape: Shape) -> dict[str, Shape]:
        """Returns what is remembered of a logical tensor of `shape`: the shape of each moment, by its name."""
        raise NotImplementedError

    def element_moments(self, shape: Shape) -> tuple[str, ...]:
        """Returns the names of the moments that hold a number for each element of a logical tensor of `shape`."""
        return tuple(name for name, of in self.moments(shape).items() if of == shape)

    def problems(self, config: "PretrainConfig") -> Iterator[str]:
        """Yields a sentence for each thing wrong with the optimizer's own settings, alone or within `config`."""
        yield from ()
