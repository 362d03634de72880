"""Declares Adafactor."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dist_plm.config.bounds import Bounds
from dist_plm.config.types import Positive
from dist_plm.spec.optimizers.base import OptimConfig, Shape
from dist_plm.spec.rules.sections import no_effect

if TYPE_CHECKING:
    from dist_plm.spec.schema import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AdafactorConfig(OptimConfig):
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235), whose eps is added to squared gradients."""

    whole_tensors: ClassVar[bool] = True

    name: Literal["adafactor"] = "adafactor"
    eps: Positive = 1e-8
    scale_parameter: bool = True  # the rate is a share of each tensor's root mean square
    min_scale: Positive = 1e-3  # of that root mean square
    beta2_decay: Annotated[float, Bounds(low=0.0, high=1.0, low_open=True)] = 0.8  # beta2 = 1 - t ** -beta2_decay
    update_clip: Positive = 1.0  # root mean square above which an update is scaled down to it

    def moments(self, name: str, shape: Shape) -> dict[str, Shape]:
        """Keeps, of a matrix, means over its rows and over its columns, of all else every element's own."""
        if len(shape) == 2:
            return {"exp_avg_sq_row": shape[:1], "exp_avg_sq_col": shape[1:]}
        return {"exp_avg_sq": shape}

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        if not self.scale_parameter:
            yield from no_effect(self, "optim", ("min_scale",), "optim.scale_parameter = false")
