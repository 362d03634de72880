"""Declares what an engine is: it holds model and optimizer on a process grid, and turns microbatches into an update.

Nothing above this floor knows which engine runs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.engines.measuring.step_clock import StepClock
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.sharding import ShardSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One update.

    Args:
        loss: what was minimised: the weighted sum of `terms`.
        terms: of each part of the loss, by name, the mean over all that it predicts in the global batch.
        num_tokens: how many labels the first part predicted.
        grad_norm: of the whole model's gradient before clipping; None where the step was skipped.
        loss_scale: None without loss scaling.
        skipped: the gradient was not finite and the weights stayed as they were.
        worst: the microbatch of the largest loss, by its number in the global batch, and its loss; None where unknown.
    """

    loss: float
    terms: Mapping[str, float]
    num_tokens: int
    grad_norm: float | None
    loss_scale: float | None
    skipped: bool
    worst: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TermSums:
    """Sums over what one part of the loss predicts in some samples; `correct` is counted in evaluation alone."""

    loss: float = 0.0
    correct: int = 0
    count: int = 0

    def __add__(self, other: "TermSums") -> "TermSums":
        return TermSums(
            loss=self.loss + other.loss, correct=self.correct + other.correct, count=self.count + other.count
        )

    @property
    def mean(self) -> float:
        return self.loss / max(self.count, 1)

    @property
    def accuracy(self) -> float:
        return self.correct / max(self.count, 1)


#: By the names of the parts of the loss. They add up over calls.
EvalSums = dict[str, TermSums]


class Prediction(NamedTuple):
    """Holds what a model says of the samples of a microbatch.

    Args:
        samples: [B], their numbers.
        outputs: on the host, by the array that they predict: see models.loss_sums.TermScores.
    """

    samples: Tensor
    outputs: Mapping[str, Tensor]


class Lent(NamedTuple):
    """Holds the model of an engine while it is run otherwise than by steps.

    Args:
        chunks: this rank's, in evaluation mode, with the weights of the last update.
        together: each pass gathers weights of all data ranks, which have to make the same passes.
    """

    chunks: Sequence[ModelChunk]
    together: bool


class ParameterState(NamedTuple):
    """One parameter of this rank with all that the optimizer holds of it, whole over data ranks, in fp32.

    Args:
        tensors: "weight" (the fp32 master where there is one) and the optimizer's tensors under its own names, as in
            "exp_avg" and "exp_avg_sq"; each shaped like shard_spec.parameter. They may be the engine's own memory: copy
            what is to outlive the next parameter.
    """

    shard_spec: ShardSpec
    tensors: dict[str, Tensor]


class Engine(Protocol):
    """See the module.

    Attributes:
        clock: tells the parts of its steps apart while it is on.
    """

    clock: StepClock

    def train_step(self, microbatches: Sequence[Batch], lr: float, trained_from: int = 0) -> StepResult:
        """Makes one update from this rank's microbatches of a global batch, of what lies at depth `trained_from` or above it.
        Collective over all ranks.

        Without pipelining each microbatch is drawn when its forward pass begins. What drawing it raises on all ranks
        alike ends the step: weights and optimizer stay as they were."""
        ...

    def eval_step(self, microbatches: Sequence[Batch]) -> EvalSums:
        """Scores microbatches without an update; the sums are over all ranks' microbatches. Collective."""
        ...

    def predict_step(self, microbatches: Sequence[Batch]) -> tuple[EvalSums, list[Prediction]]:
        """Scores microbatches as `eval_step` does, and tells as well what the model says of each sample: on every rank the
        predictions of all microbatches of all data ranks, in the order of data ranks. Of tokens of a vocabulary it tells
        nothing. Collective."""
        ...

    def losses_by_data_rank(self, microbatches: Sequence[Batch]) -> list[float]:
        """Scores microbatches as `eval_step` does; gives the largest loss of one on each data rank. Collective."""
        ...

    def lend(self) -> AbstractContextManager[Lent]:
        """Lends the model to be run without gradients, as a model that writes is. Collective over data ranks."""
        ...

    def parameter_states(self) -> Iterator[ParameterState]:
        """Yields what a checkpoint keeps of each parameter, one at a time, in the same order on all ranks of a data group.
        Collective over data ranks: all of them go through to the end."""
        ...

    def load_parameter_states(self, read: Callable[[ShardSpec, str], Tensor]) -> None:
        """Sets weights, masters and the optimizer's tensors from `read(shard_spec, name)`, which gives fp32 values shaped
        like shard_spec.parameter for each name of `ParameterState.tensors`. It is asked for the rows of parameters that
        this rank holds a part of (`ShardSpec.rows`), and for no others. Collective over all ranks."""
        ...

    def own_values(self) -> list[Tensor]:
        """Lists what this rank's optimizer holds, as it lies: its parts of what it trains (of masters, where there are some)
        and of its own tensors, as views, in the same order each time. Not where they lie on NVMe."""
        ...

    def spread_weights(self) -> None:
        """Puts into the model what was written to weights of `own_values`. Collective over data ranks."""
        ...

    def measured_update(self) -> AbstractContextManager[dict[str, tuple[float, float]]]:
        """Measures the update that a step within makes: the mapping then holds sums of squares of the update and of the weights
        before it, by the logical tensor, of all that this pipeline stage trains; nothing where they lie on NVMe. Collective
        over the ranks of a stage, and those of tied embeddings."""
        ...

    def scalars(self) -> dict[str, Any]:
        """Gives what else a checkpoint keeps, fit for JSON and equal on all ranks: `optimizer_steps`, and under fp16
        `loss_scale`, `steps_since_overflow` and `hysteresis_left`. Collective over all ranks."""
        ...

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Continues from what any engine's `scalars` gave; what is absent stays as it is."""
        ...
