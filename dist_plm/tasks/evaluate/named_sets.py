"""Measures named sets while a run pretrains, as launch/evaluate.py measures them of its checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.dialogues import template_beside
from dist_plm.data.sampling.build_dataset import tokenizer_store
from dist_plm.data.store.verify import tokenizer_of_store
from dist_plm.distributed.collectives import all_reduce
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Engine
from dist_plm.models.model_context import whole_sequences
from dist_plm.spec.inference.schema import EvaluateConfig, asked_of_run
from dist_plm.spec.schema import DataConfig, PretrainConfig, TrainingConfig
from dist_plm.tasks.evaluate.evaluate import measure_texts
from dist_plm.tasks.evaluate.objective import objective_evaluator
from dist_plm.tasks.evaluate.passages import Passages, open_passages
from dist_plm.tasks.evaluate.perplexity import Asked
from dist_plm.tasks.evaluate.probe import Probe, open_probe
from dist_plm.tasks.evaluate.sums import COUNTS
from dist_plm.tasks.inference.runner import Runner
from dist_plm.tasks.inference.source import alike
from dist_plm.tasks.inference.vocabulary import Vocabulary, vocabulary_of_run

#: Measures one set by the model of an engine; see train.evaluation.NamedMeasures.
Measured = Callable[[Engine, Callable[[], None]], Mapping[str, float]]


def named_set_measures(config: TrainingConfig, groups: Groups) -> "NamedSets | None":
    """Builds what measures the sets that a finalised run of pretraining names; None where it names none. Collective.

    Raises:
        UserError: on every rank alike, where one cannot be read, or the model cannot tell what is asked.
    """
    if not isinstance(config, PretrainConfig) or not config.evaluate.tasks:
        return None
    vocabulary = alike(groups.world, lambda: _vocabulary(config.data))
    sets: dict[str, Measured] = {}
    for named in config.evaluate.tasks:
        asked = asked_of_run(named, config.train.micro_batch)
        sets[named.name] = {"perplexity": _texts, "objective": _samples, "probe": _probe}[named.on](
            asked, config, groups, vocabulary
        )
    return NamedSets(sets)


@dataclass(frozen=True, slots=True)
class NamedSets:
    """Measures sets one after the other. See train.evaluation.NamedMeasures."""

    sets: Mapping[str, Measured]

    def __call__(self, engine: Engine, between: Callable[[], None]) -> dict[str, float]:
        return {
            f"{name}/{measure}": value
            for name, measured in self.sets.items()
            for measure, value in measured(engine, between).items()
            if measure not in COUNTS
        }


def _vocabulary(data: DataConfig) -> Vocabulary:
    store = tokenizer_store(data)
    if store is None:
        raise DataError(f"evaluate.tasks need a tokenizer, and {data.stores[0]} has none: give a store by prepare_data")
    return vocabulary_of_run(tokenizer_of_store(store), store, template_beside(store))


def _texts(asked: EvaluateConfig, config: PretrainConfig, groups: Groups, vocabulary: Vocabulary) -> Measured:
    size = config.model.vocab_size
    assert size is not None
    passages = alike(groups.world, lambda: open_passages(asked.data, vocabulary, size))
    return TextSet(asked, Asked.of(asked, config.model, vocabulary), passages, vocabulary, groups)


def _samples(asked: EvaluateConfig, config: PretrainConfig, groups: Groups, vocabulary: Vocabulary) -> Measured:
    return objective_evaluator(asked, config, vocabulary, groups)


def _probe(asked: EvaluateConfig, config: PretrainConfig, groups: Groups, vocabulary: Vocabulary) -> Measured:
    length, has_decoder = config.data.sequence_length, config.model.has_decoder
    rows = alike(groups.world, lambda: open_probe(asked, vocabulary.tokenizer, length, has_decoder=has_decoder))
    return ProbedSet(rows, groups)


@contextmanager
def _runner(engine: Engine, groups: Groups) -> Iterator[Runner]:
    """Gives what runs the model of an engine. Context ranks each read whole rows: their lengths are those of the texts."""
    with engine.lend() as lent:
        modules = (module for chunk in lent.chunks for module in chunk.modules())
        with whole_sequences(modules) if groups.grid.context > 1 else nullcontext():
            yield Runner(lent.chunks, groups, lent.chunks[0].shared)


@dataclass(frozen=True, slots=True)
class TextSet:
    """Measures the perplexity of documents."""

    config: EvaluateConfig
    asked: Asked
    passages: Passages
    vocabulary: Vocabulary
    groups: Groups

    def __call__(self, engine: Engine, between: Callable[[], None]) -> Mapping[str, float]:
        turns = partial(_next_turn, self.groups, between)
        with _runner(engine, self.groups) as runner:
            results, _ = measure_texts(self.config, self.asked, runner, self.vocabulary, self.passages, turns)
        return results


def _next_turn(groups: Groups, between: Callable[[], None], more: bool) -> bool:
    """Whether any rank has a pass to make. Collective: ranks of ZeRO-3 pass together, and all look for signals."""
    flag = torch.tensor([more], dtype=torch.int32, device=groups.device.torch_device)
    all_reduce(flag, groups.world, dist.ReduceOp.MAX)
    if not flag.item():
        return False
    between()
    return True


@dataclass(frozen=True, slots=True)
class ProbedSet:
    """Measures a probe."""

    probe: Probe
    groups: Groups

    def __call__(self, engine: Engine, between: Callable[[], None]) -> Mapping[str, float]:
        with _runner(engine, self.groups) as runner:
            return self.probe.measure(runner, between)
