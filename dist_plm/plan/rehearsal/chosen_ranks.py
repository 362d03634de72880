"""Chooses the ranks of a job that are rehearsed. Needs no PyTorch."""

from collections.abc import Iterator

from dist_plm.config.suggest import did_you_mean, near
from dist_plm.core.errors import ConfigError
from dist_plm.core.parsing import whole_number
from dist_plm.distributed.grid import Grid
from dist_plm.plan.memory import memory_by_stage, worst_of
from dist_plm.spec.schema import TrainingConfig

_WORDS = ("worst", "all")


def chosen_ranks(text: str, config: TrainingConfig, grid: Grid) -> list[int]:
    """Reads --ranks.

    Raises:
        ConfigError: it names no ranks of the job.
    """
    if text == "all":
        return list(range(grid.size))
    if text == "worst":
        return sorted(set(_worst(worst_of(memory_by_stage(config)).stage, grid)))
    numbers = [whole_number(word) for word in text.split(",")]
    if any(number is None for number in numbers):
        hint = did_you_mean(near(text, _WORDS))
        raise ConfigError(
            [f"--ranks {text} is not allowed{hint}: write numbers with commas, as in 0,17, or worst, or all"]
        )
    ranks = sorted({number for number in numbers if number is not None})
    if ranks[-1] >= grid.size:
        raise ConfigError(
            [f"--ranks {text}: there is no rank {ranks[-1]} among {grid.size}, which are 0 to {grid.size - 1}"]
        )
    return ranks


def _worst(stage: int, grid: Grid) -> Iterator[int]:
    """Yields a rank of the stage that needs most memory, the last along each other axis beside it, its neighbours in the
    pipeline, and the first and the last stage."""
    yield grid.rank_at(pipeline=stage)
    yield grid.rank_at(pipeline=stage, tensor=grid.tensor - 1)
    yield grid.rank_at(pipeline=stage, context=grid.context - 1)
    yield grid.rank_at(pipeline=stage, data=grid.data - 1)
    for other in (0, grid.pipeline - 1, stage + 1):
        yield grid.rank_at(pipeline=min(other, grid.pipeline - 1))
