"""Declares what every optimizer's section has, and what the rest of the system asks of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dist_plm.config.bounds import Bounds, at_least
from dist_plm.config.types import Count, NonNegative, Positive

if TYPE_CHECKING:
    from dist_plm.spec.schema import TrainingConfig

Shape = tuple[int, ...]


def is_hidden_matrix(name: str, shape: Shape) -> bool:
    """Whether a tensor is a matrix between hidden states: of a layer, and neither a table nor a head nor biases."""
    return len(shape) == 2 and "layers" in name.split(".") and name.endswith(".weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """The update rule.

    `lr` is the peak; with `lr_batch`, the peak of a run of that global batch, from which it is scaled to this run's."""

    #: Some matrices are updated by a rule of their own: see `sets_apart`.
    has_two_rules: ClassVar[bool] = False
    #: An update looks at whole logical tensors, wherever their parts lie.
    whole_tensors: ClassVar[bool] = False

    name: str
    lr: Positive
    lr_batch: Count | None = None
    lr_scaling: Literal["linear", "sqrt"] = "sqrt"  # with the global batch; acts with lr_batch
    weight_decay: NonNegative = 0.1
    decay_norms_and_biases: bool = False
    layer_decay: Annotated[float, Bounds(low=0.0, high=1.0, low_open=True)] = 1.0  # of the rate, a layer downwards
    head_lr: Positive | None = None  # of what lies above the layers, in place of lr; acts as lr does
    clip_norm: Annotated[float, at_least(0)] = 1.0  # of the global gradient; 0 turns clipping off

    @property
    def body_module(self) -> str:
        """Names the module that has its body."""
        return f"dist_plm.optim.{self.name}"

    @property
    def clip_threshold(self) -> float:
        """The global gradient norm above which gradients are scaled down to it; 0 for none."""
        return self.clip_norm

    @property
    def adapts_vectors(self) -> bool:
        """Whether norms and biases take part in what an optimizer does layer by layer."""
        return False

    def moments(self, name: str, shape: Shape) -> dict[str, Shape]:
        """Returns what is remembered of the logical tensor `name` of `shape`: the shape of each moment, by its name."""
        raise NotImplementedError

    def element_moments(self, name: str, shape: Shape) -> tuple[str, ...]:
        """Returns the names of the moments that hold a number for each element of a logical tensor."""
        return tuple(moment for moment, of in self.moments(name, shape).items() if of == shape)

    def workspace(self, name: str, shape: Shape) -> int:
        """Counts the numbers that come and go while the logical tensor `name` of `shape` is updated, beside its direction."""
        return 0

    def sets_apart(self, name: str, shape: Shape) -> bool:
        """Whether a matrix is updated by a rule of its own, and so belongs to a parameter group of its own."""
        return False

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        """Yields a sentence for each thing wrong with the optimizer's own settings, alone or within `config`."""
        yield from ()
