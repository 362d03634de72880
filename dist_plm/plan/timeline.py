"""Lays out when each stage of a pipeline runs which pass: one forward, one backward, interleaved where stages hold chunks.

Narayanan et al. 2021 (arXiv 2104.04473, section 2.2), in Megatron-core's order.
"""

from collections.abc import Sequence
from typing import NamedTuple


class TimedPass(NamedTuple):
    """One pass of one microbatch over one chunk of a stage, in seconds from the first."""

    stage: int
    chunk: int
    microbatch: int
    forward: bool
    start: float
    stop: float


def timeline(seconds: Sequence[tuple[float, float]], microbatches: int, chunks: int = 1) -> list[TimedPass]:
    """Lays out a step, messages left out.

    Args:
        seconds: of the forward and backward pass of one microbatch, by stage, all its chunks together.
        microbatches: a multiple of the stages, if there are several chunks.
    """
    stages = len(seconds)
    orders = [_order(stage, stages, microbatches, chunks) for stage in range(stages)]
    done: dict[tuple[bool, int, int, int], float] = {}
    found, free, place = [], [0.0] * stages, [0] * stages
    while any(place[stage] < len(orders[stage]) for stage in range(stages)):
        moved = False
        for stage in range(stages):
            while place[stage] < len(orders[stage]):
                forward, chunk, microbatch = orders[stage][place[stage]]
                before = _before(forward, stage, chunk, stages, chunks)
                if before is not None and (*before, microbatch) not in done:
                    break
                ready = done[(*before, microbatch)] if before is not None else 0.0
                start = max(free[stage], ready)
                stop = start + seconds[stage][0 if forward else 1] / chunks
                done[forward, stage, chunk, microbatch] = free[stage] = stop
                found.append(TimedPass(stage, chunk, microbatch, forward, start, stop))
                place[stage] += 1
                moved = True
        assert moved, "the schedule waits for itself"
    return found


def _order(stage: int, stages: int, microbatches: int, chunks: int) -> list[tuple[bool, int, int]]:
    """Lists the passes of a stage: whether forward, chunk, microbatch."""
    total = microbatches * chunks
    forward = [(True, *_of(number, stages, chunks)) for number in range(total)]
    backward = [(False, chunks - 1 - chunk, one) for _, chunk, one in forward]
    ahead = stages - stage - 1 if chunks == 1 else 2 * (stages - stage - 1) + (chunks - 1) * stages
    warm_up = min(ahead, total)
    steady = [one for pair in zip(forward[warm_up:], backward, strict=False) for one in pair]
    return [*forward[:warm_up], *steady, *backward[total - warm_up :]]


def _of(number: int, stages: int, chunks: int) -> tuple[int, int]:
    """Chunk and microbatch of a stage's pass: stages take turns over a group of as many microbatches as there are stages."""
    if chunks == 1:
        return 0, number
    group, within = divmod(number, stages * chunks)
    return within // stages, group * stages + within % stages


def _before(forward: bool, stage: int, chunk: int, stages: int, chunks: int) -> tuple[bool, int, int] | None:
    """Names the pass of the same microbatch that has to be done: whether forward, stage, chunk."""
    if forward:
        if stage > 0:
            return True, stage - 1, chunk
        return (True, stages - 1, chunk - 1) if chunk > 0 else None
    if stage < stages - 1:
        return False, stage + 1, chunk
    return (False, 0, chunk + 1) if chunk < chunks - 1 else (True, stage, chunk)
