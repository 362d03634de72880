"""Rehearses one rank: its part of the model, its engine and optimizer, a whole step and what it would save."""

import math
import resource
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from dist_plm.checkpoint.fragments import Fragment, HostCopies, ReplicaRank
from dist_plm.core.errors import LacksError, NotRehearsedError, UserError, described
from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.device import choose
from dist_plm.distributed.grid import grid_of
from dist_plm.distributed.groups import Groups, build_groups
from dist_plm.engines.base import Engine
from dist_plm.engines.build import absent_ranks, build_engine
from dist_plm.engines.engine_settings import EngineSettings
from dist_plm.models.build import build_model
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.sharding import Shard
from dist_plm.optim.depth import trained_from
from dist_plm.plan.rehearsal.fake_world import fake_world, without_values
from dist_plm.plan.rehearsal.footprint import Footprint
from dist_plm.plan.rehearsal.ledger import Ledger
from dist_plm.plan.rehearsal.moment import Moment
from dist_plm.plan.rehearsal.recorder import CallRecorder, place_of
from dist_plm.plan.rehearsal.repeated_passes import alike, repeat_passes
from dist_plm.plan.rehearsal.stand_in_data import stand_in
from dist_plm.spec.derived import num_microbatches
from dist_plm.spec.freezing import frozen_tensors
from dist_plm.spec.schema import PretrainConfig, TrainingConfig
from dist_plm.train.build import engine_settings
from dist_plm.train.data import RunData, begins_at, open_data, open_run
from dist_plm.train.parts import open_loader
from dist_plm.train.startup.run_position import Position

_NOTHING = torch.empty(0)
#: Of collectives that nobody waits for.
TIMEOUT = timedelta(minutes=1)
#: Of a checkpoint: name and first element -> elements of the box, and of the whole tensor.
Boxes = dict[tuple[str, tuple[int, ...]], tuple[int, int]]
#: Makes what records within a block.
Recording = Callable[[Moment, Footprint], AbstractContextManager[CallRecorder]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRehearsal:
    """Holds what was seen of one rank.

    Args:
        place: its coordinates by axis.
        ledger: what it said to others.
        peak: bytes held at the peak until the step has ended, by the part of the model or the phase that made them.
        peak_at: the moment of the peak.
        saving_bytes: held at the peak of saving, which is not among these.
        launches: operations by phase, over the whole step.
        microbatches: of a step.
        seconds: of the rehearsal itself, by part.
        process_bytes: memory of the process that rehearsed it.
        reads: the samples of a step and the bytes of its batch.
        writes: tensors, boxes and bytes of a checkpoint that this rank writes.
        boxes: what it writes.
        failure: why it did not come to the end.
    """

    rank: int
    place: dict[str, int]
    ledger: Ledger
    peak: dict[str, int]
    peak_at: str
    saving_bytes: int
    launches: dict[str, int]
    microbatches: int
    seconds: dict[str, float]
    process_bytes: int
    reads: dict[str, Any]
    writes: dict[str, int]
    boxes: Boxes
    failure: str | None = None

    @property
    def peak_bytes(self) -> int:
        return sum(self.peak.values())


class Clock:
    """Times the parts of a rehearsal."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds what the block takes to a part."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def rehearse_rank(config: TrainingConfig, rank: int, world_size: int) -> RankRehearsal:
    """Rehearses a rank of a finalised run whose vocabulary is known, in a world that is not there.

    Raises:
        NotRehearsedError: it asks for what this machine lacks, or depends on numbers of other ranks.
        UserError: it cannot be begun, as data cannot be used.
    """
    device, clock = choose("cpu", 0), Clock()
    with fake_world(rank, world_size):
        with clock.part("groups"):
            virtual = config.parallel.virtual_pipeline
            groups = build_groups(grid_of(config.parallel), device, virtual_pipeline=virtual, timeout=TIMEOUT)
        return rehearse_on(config, groups, without_values, clock, real=False)


def rehearse_on(
    config: TrainingConfig, groups: Groups, recording: Recording, clock: Clock | None = None, *, real: bool = True
) -> RankRehearsal:
    """Goes through a step and a save on groups that are there, real ones or not, and records them.

    Args:
        real: whether tensors have values; else weights are not drawn, and microbatches that are alike not computed again.
    """
    clock, moment = clock or Clock(), Moment()
    footprint = Footprint(moment)
    with clock.part("data"):
        data = _open(config, groups.grid.size)
        batches = _first_batches(config, data, groups)
        reads, repeats = _reads(data, batches), not real and config.engine.passes_repeat
        if repeats:
            batches = alike(batches)
    failure, writes, boxes, saving_bytes = None, {}, {}, 0
    settings = replace(engine_settings(config), engine=replace(config.engine, compile="off"))
    with recording(moment, footprint) as recorder, nullcontext() if real else absent_ranks(settings):
        try:
            chunks = _build_model(config, groups, recorder, clock, filled=real)
            if repeats:
                repeat_passes(chunks, recorder, config.parallel, groups.coordinates.pipeline, len(batches))
            engine = _build_engine(settings, groups, recorder, clock, data, chunks)
            with clock.part("step"), footprint.phase("step"):
                moment.begin("step 1")
                engine.train_step(
                    batches, config.optim.lr, trained_from(0, config.train.unfreeze_every, config.model.top)
                )
            with clock.part("save"), footprint.phase("saving"), footprint.apart() as apart:
                moment.begin("saving")
                writes, boxes = _save_plan(engine, groups)
            saving_bytes = apart.most
        except LacksError as error:
            lacked = [
                f"this machine lacks what the job may find where it runs: {problem}" for problem in error.problems
            ]
            raise NotRehearsedError(lacked) from None
        except UserError:
            raise
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise NotRehearsedError(
                [
                    f"this run cannot be rehearsed: what follows on {_innermost(error)} ({moment}) depends on numbers of other "
                    "ranks; optim.name = 'muon' under DeepSpeed's ZeRO 1 to 3 is such a case: set engine=megatron, or another "
                    "optimizer"
                ]
            ) from None
        except Exception as error:  # whatever a real rank would die of
            failure = f"{moment}, {_innermost(error)}: {described(error)}"
    return RankRehearsal(
        rank=groups.rank,
        place=groups.coordinates._asdict(),
        ledger=recorder.ledger,
        peak=footprint.peak,
        peak_at=footprint.peak_at,
        saving_bytes=saving_bytes,
        launches=dict(footprint.launches),
        microbatches=len(batches),
        seconds=clock.seconds,
        process_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        reads=reads,
        writes=writes,
        boxes=boxes,
        failure=failure,
    )


def _open(config: TrainingConfig, world_size: int) -> RunData:
    if not isinstance(config, PretrainConfig):
        return open_run(config, world_size)[1]
    if config.data.are_here:
        return open_data(config.data, config.objective, config.train, config.model, begins_at(config))
    return stand_in(config.objective, config.model, config.data.sequence_length, config.train.seed)


def _first_batches(config: TrainingConfig, data: RunData, groups: Groups) -> list[Batch]:
    """Reads the microbatches of the first step in this process."""
    settings = replace(config.data, loader_workers=0)
    loader = open_loader(data, settings, config.train, Position(), groups)
    return [next(loader) for _ in range(num_microbatches(config.train, config.parallel))]


def _reads(data: RunData, batches: list[Batch]) -> dict[str, Any]:
    samples = [int(number) for batch in batches for number in batch["samples"]]
    return {
        "from": data.samples["train"].describe(),
        "samples": [min(samples), max(samples)],
        "bytes": sum(values.nbytes for batch in batches for values in batch.values()),
    }


def _build_model(
    config: TrainingConfig, groups: Groups, recorder: CallRecorder, clock: Clock, *, filled: bool
) -> list[ModelChunk]:
    with clock.part("model"), recorder.footprint.phase("weights"):
        recorder.moment.begin("building the model")
        chunks, _ = build_model(
            config.model,
            config.parallel,
            config.precision,
            groups,
            groups.device.torch_device,
            seed=config.train.seed,
            token_loss=config.objective.token_loss,
            frozen=frozen_tensors(config.model, config.train.freeze),
            filled=filled,
        )
    for chunk in chunks:
        recorder.moment.watch(chunk)
    recorder.footprint.name_modules(chunks)
    return chunks


def _build_engine(
    settings: EngineSettings,
    groups: Groups,
    recorder: CallRecorder,
    clock: Clock,
    data: RunData,
    chunks: list[ModelChunk],
) -> Engine:
    """Builds the engine as a run does."""
    label = "engine's buffers and states"
    with clock.part("engine"), recorder.footprint.phase(label), tempfile.TemporaryDirectory() as folder:
        recorder.moment.begin("building the engine")
        settings = replace(settings, run_dir=folder)
        return build_engine(settings, groups, groups.device.torch_device, chunks, data.objective.losses)


class _PlannedCopies(HostCopies):
    """Copies nothing, and notes what would be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes: Boxes = {}

    def _copy(self, name: str, box: Shard, source: Tensor) -> Fragment:
        self.boxes[name, box.start] = box.numel, math.prod(box.shape)
        return Fragment(name, box.shape, box.start, _NOTHING)


def _save_plan(engine: Engine, groups: Groups) -> tuple[dict[str, int], Boxes]:
    """Goes through what a checkpoint keeps as a save does. Collective."""
    copies = _PlannedCopies()
    copies.take(engine.parameter_states(), ReplicaRank.of(groups))
    engine.scalars()
    boxes = copies.boxes
    size = 4 * sum(numel for numel, _ in boxes.values())
    written = {"tensors": len({name for name, _ in boxes}), "boxes": len(boxes), "bytes": size}
    return written, boxes


def _innermost(error: Exception) -> str:
    """Finds our innermost line that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((place for frame in reversed(frames) if (place := place_of(frame.filename, frame.lineno))), "unknown")
