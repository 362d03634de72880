"""Runs in which something goes wrong: planted faults, each of which is noticed by what it does to loss and gradient."""

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch

from dist_plm.checkpoint.saver import CheckpointWriter
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.data.loader import microbatch_loader
from dist_plm.engines.deepspeed.engine import DeepSpeedEngine
from dist_plm.engines.loss_terms import LossTerms
from dist_plm.engines.megatron.engine import MegatronEngine
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train import build
from tests.ranks.pool import World
from tests.train.observing.test_replicas import flipped
from tests.train.running import before, run_case


@dataclass(frozen=True, slots=True)
class Fault:
    """One planted fault.

    Args:
        kind: "gradient" that is NaN, a "document" of noise, `size` samples long, a "loss" that is thirty times as large, a
            learning "rate" a thousand times too high, a "bit" of a weight that flips, or a "moment" that is infinite.
        at: the sample that brings it on, or the step whose rate it is, or the number of steps made after which it comes.
        rank: on which a gradient is NaN, a bit flips, or a moment is infinite.
        once: it does not come again with the same sample or step.
        bit: that flips, of 32.
        tied: it is one of an embedding that several stages hold, else of a norm.
    """

    kind: Literal["gradient", "document", "loss", "rate", "bit", "moment"]
    at: int
    rank: int = 0
    once: bool = False
    bit: int = 20
    size: int = 8
    tied: bool = False


@contextlib.contextmanager
def planted(fault: Fault, rank: int) -> Iterator[None]:
    """Has the fault happen in this process, which is this rank."""
    on_losses, on_engine = dict.fromkeys(("gradient", "loss"), _loss), dict.fromkeys(("bit", "moment"), _engine)
    plant = {"document": _document, "rate": _rate, **on_losses, **on_engine}[fault.kind]
    with contextlib.ExitStack() as stack:
        for owner, name, replaced in plant(fault, rank):
            stack.enter_context(patch.object(owner, name, replaced))
        yield


Patches = list[tuple[Any, str, Any]]


def _loss(fault: Fault, rank: int) -> Patches:
    count, of, times, broken = LossTerms.count, LossTerms.of, itertools.count(1), [False]

    def counted(terms: LossTerms, microbatches: Any) -> Any:
        """Looks at the samples of a step before it."""
        # All of them, on each rank: between two microbatches of a long step, as the first is one, ranks ask each other.
        hits = sum(fault.at in batch["samples"] for batch in microbatches) if torch.is_grad_enabled() else 0
        broken[0] = hits > 0 and (rank == fault.rank or fault.kind == "loss") and (next(times) == 1 or not fault.once)
        return count(terms, microbatches)

    def computed(terms: LossTerms, scores: Any, scales: Any) -> Any:
        loss, sums = of(terms, scores, scales)
        if not broken[0]:
            return loss, sums
        if fault.kind == "gradient":
            return loss * float("nan"), sums
        return 30 * loss, sums * torch.tensor([30.0, 1.0], dtype=sums.dtype)

    return [(LossTerms, "count", counted), (LossTerms, "of", computed)]


def _document(fault: Fault, rank: int) -> Patches:
    original, times = microbatch_loader.to_tensors, [0]

    def poisoned(arrays: Any, pin_memory: bool) -> Any:
        rows = (arrays["samples"] >= fault.at) & (arrays["samples"] < fault.at + fault.size)
        if rows.any() and len(arrays["samples"]) < 8:  # of training, not of an evaluation
            times[0] += 1
            if not (fault.once and times[0] > 1):
                noise = np.random.default_rng(0)
                arrays = {name: array.copy() for name, array in arrays.items()}
                for name in ("tokens", "labels"):
                    arrays[name][rows] = noise.integers(0, 97, arrays[name][rows].shape)
        return original(arrays, pin_memory)

    return [(microbatch_loader, "to_tensors", poisoned)]


def _rate(fault: Fault, rank: int) -> Patches:
    original, times = build._learning_rate, [0]

    def spiked(schedule: Any, steps: int, peak: float, step: int, history: Any) -> float:
        rate = original(schedule, steps, peak, step, history)
        if step + 1 != fault.at:
            return rate
        times[0] += 1
        return rate if fault.once and times[0] > 1 else 1000 * rate

    return [(build, "_learning_rate", spiked)]


def _engine(fault: Fault, rank: int) -> Patches:
    original, made = build.build_engine, itertools.count(1)

    def built(*arguments: Any) -> Any:
        engine = original(*arguments)
        train_step = engine.train_step

        def stepped(*more: Any) -> Any:
            result = train_step(*more)
            number = next(made)
            if rank == fault.rank and (number == fault.at if fault.once else number % fault.at == 0):
                (_flip if fault.kind == "bit" else _overflow)(fault, engine, arguments[3])
            return result

        engine.train_step = stepped
        return engine

    return [(build, "build_engine", built)]


def _flip(fault: Fault, engine: Any, chunks: Any) -> None:
    named = [one for chunk in chunks for one in chunk.named_parameters()]
    tied = [one for _, one in named if getattr(one, "shared_embedding", False)]
    norms = (one for name, one in named if name.endswith("norm.weight"))
    flipped(tied[0] if fault.tied else next(norms), fault.bit)


def _overflow(fault: Fault, engine: Any, chunks: Any) -> None:
    engine.own_values()[-1].view(-1)[0] = float("inf")  # the second moment of the last weight


def faulty_case(world: World, config: PretrainConfig, port: int, fault: Fault) -> int:
    """A run with a fault; its exit code."""
    with planted(fault, world.rank):
        return run_case(world, config, port)


def killed_in_rollback_case(
    world: World, config: PretrainConfig, port: int, fault: Fault, at: int, victim: int = 0
) -> int:
    """The same, in which rank 0 is killed before a rollback writes `latest` (1) or the history (2), or a victim before it
    loads weights (3)."""

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with contextlib.ExitStack() as stack:

        def arm(*_: Any) -> None:
            loads = "spread_weights" if config.train.heal.memory_every else "load_parameter_states"
            engine = {"megatron": MegatronEngine, "deepspeed": DeepSpeedEngine}[config.engine.name]
            owner, name, call = (engine, loads, 1) if at == 3 else (LocalStorage, "write", at)
            stack.enter_context(before(owner, name, call, die))

        if world.rank == victim:
            stack.enter_context(before(CheckpointWriter, "rewind", 1, arm))
        return faulty_case(world, config, port, fault)
