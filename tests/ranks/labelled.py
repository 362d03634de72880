"""Labelled batches for each head, functions of the sample numbers alone, and a model that learns from them on the ranks of a
case."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_plm.distributed.groups import build_groups
from dist_plm.engines.base import Engine, Prediction
from dist_plm.objectives.base import LossTerm
from dist_plm.optim.depth import trained_from
from dist_plm.spec.families.base import Head
from dist_plm.spec.rules.finalize import num_microbatches
from dist_plm.spec.schema import PretrainConfig
from tests.parts import engine_of, model_of
from tests.ranks.engine_runs import pieces_of
from tests.ranks.pool import RankPool, World
from tests.ranks.times import LONG
from tests.ranks.training import LENGTH, Outcome, configure, grid_of, learning_rates

#: Of a row of choices.
CHOICES = 2


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned; `labels` draws the arrays of one sample of a length."""

    head: Head
    num_labels: int
    losses: Mapping[str, LossTerm]
    labels: Callable[[np.random.Generator, int], dict[str, Any]]


def _tags(draw: np.random.Generator, length: int) -> dict[str, Any]:
    counted = (np.arange(LENGTH) < length) & (draw.random(LENGTH) < 0.7)
    return {"tags": np.where(counted, draw.integers(0, 5, LENGTH), -1)}


def _span(draw: np.random.Generator, length: int) -> dict[str, Any]:
    start = int(draw.integers(0, length))
    return {"starts": np.array(start), "ends": np.array(int(draw.integers(start, length)))}


TASKS = {
    "classify": Task(
        "sequence",
        3,
        {"class": LossTerm(1.0, "class_labels")},
        lambda draw, _: {"class_labels": np.array(int(draw.integers(0, 3)) if draw.random() < 0.8 else -1)},
    ),
    "regress": Task(
        "sequence",
        1,
        {"mse": LossTerm(1.0, "targets", "target_mask")},
        lambda draw, _: {"targets": np.float32(draw.normal()), "target_mask": np.array(int(draw.random() < 0.8))},
    ),
    "labels": Task(
        "sequence",
        4,
        {"bce": LossTerm(1.0, "label_sets", "target_mask")},
        lambda draw, _: {
            "label_sets": (draw.random(4) < 0.4).astype(np.float32),
            "target_mask": np.array(int(draw.random() < 0.8)),
        },
    ),
    "choice": Task("choice", 1, {"choice": LossTerm(1.0, "choice_labels")}, lambda *_: {}),
    "tag": Task("tokens", 5, {"tag": LossTerm(1.0, "tags")}, _tags),
    "span": Task("span", 2, {"start": LossTerm(0.5, "starts"), "end": LossTerm(0.5, "ends")}, _span),
}

#: Of texts that a decoder writes.
TEXT_LENGTH = 5


def _said(draw: np.random.Generator, length: int) -> dict[str, Any]:
    """The last tokens of a row are those of a choice."""
    index = np.arange(LENGTH)
    own = (index < length) & (index >= length - int(draw.integers(1, 6)))
    return {"labels": np.where(own, draw.integers(5, 100, LENGTH), -1)}


#: Those whose labels and choices are texts: of a decoder, and of one beside an encoder.
BY_LIKELIHOOD = {
    "likely_choice": Task("language_model", 0, {"choice": LossTerm(1.0, "choice_labels")}, _said),
    "written_choice": Task("language_model", 0, {"choice": LossTerm(1.0, "choice_labels")}, lambda *_: {}),
    "written_label": Task("language_model", 0, {"class": LossTerm(1.0, "class_labels")}, lambda *_: {}),
}


def _continued(draw: np.random.Generator, length: int) -> dict[str, Any]:
    """The last tokens of a row are learned, and what follows them; a few rows, padded, end early."""
    index, own = np.arange(LENGTH), int(draw.integers(2, 6))
    learned = (index < length) & (index >= length - own)
    return {"labels": np.where(learned, draw.integers(5, 100, LENGTH), -1)}


def _seen_before(draw: np.random.Generator, length: int) -> dict[str, Any]:
    """All before what is learned is seen both ways."""
    row = _continued(draw, length)
    index = np.arange(LENGTH)
    first = int((row["labels"] >= 0).argmax()) + 1
    return {**row, "seen_from": np.where(index < first, 0, index)}


def _answered(draw: np.random.Generator, _: int) -> dict[str, Any]:
    """A text for a decoder beside an encoder."""
    index, own = np.arange(2 * TEXT_LENGTH), int(draw.integers(1, 2 * TEXT_LENGTH + 1))
    text = draw.integers(5, 100, 2 * TEXT_LENGTH)
    return {"labels": np.where(index < own, text, -1), "decoder_tokens": np.concatenate([[0], text[:-1]])}


def _packed(draw: np.random.Generator, length: int) -> dict[str, Any]:
    """Some dialogues, of each of which turns are learned; padding is of none."""
    index = np.arange(LENGTH)
    starts = np.sort(draw.choice(np.arange(1, length), 2, replace=False))
    documents = np.searchsorted(starts, index, side="right")
    positions = index - np.concatenate([[0], starts])[documents]
    learned = (index < length) & (index // 3 % 2 == int(draw.integers(0, 2)))
    return {
        "labels": np.where(learned, draw.integers(5, 100, LENGTH), -1),
        "documents": np.where(index < length, documents, 2**20).astype(np.int32),
        "positions": np.where(index < length, positions, 0),
    }


#: Those whose models write: of a decoder, that may see its prompt both ways, or has several dialogues in a row, and of one
#: beside an encoder.
WRITING = {
    "continued": Task("language_model", 0, {"seq2seq": LossTerm(1.0, "labels")}, _continued),
    "seen_before": Task("language_model", 0, {"seq2seq": LossTerm(1.0, "labels")}, _seen_before),
    "packed": Task("language_model", 0, {"chat": LossTerm(1.0, "labels")}, _packed),
    "answered": Task("language_model", 0, {"seq2seq": LossTerm(1.0, "labels")}, _answered),
}
ALL_TASKS = {**TASKS, **BY_LIKELIHOOD, **WRITING}


def _written(samples: np.ndarray, over: str) -> dict[str, np.ndarray]:
    """Texts of samples, each of which has as many, and which is right; of some nothing is known."""
    count = CHOICES + (over == "class_labels")
    draws = [np.random.default_rng(1000 + int(sample)) for sample in samples for _ in range(count)]
    # Each text of a sample takes other numbers of the same draw.
    drawn = [draw.integers(5, 100, (number % count + 1) * TEXT_LENGTH) for number, draw in enumerate(draws)]
    texts = np.stack([numbers[-TEXT_LENGTH:] for numbers in drawn])
    own = np.arange(TEXT_LENGTH) < np.array([draw.integers(1, TEXT_LENGTH + 1) for draw in draws])[:, None]
    right = [np.random.default_rng(int(sample)).integers(-(over == "class_labels"), count) for sample in samples]
    before = np.pad(texts, ((0, 0), (1, 0)))[:, :-1]
    return {"decoder_tokens": before, "labels": np.where(own, texts, -1), over: np.array(right)}


#: Grids and shardings, each with an engine.
SHARDINGS = (
    ("data2", "megatron", 1),
    ("data2", "deepspeed", 2),
    ("data2", "deepspeed", 3),
    ("tensor2_sequence", "megatron", 0),
    ("data2_tensor2_sequence", "deepspeed", 3),
    ("tensor2_pipeline2", "megatron", 1),
    ("tensor2_pipeline2", "deepspeed", 1),
    ("data2_pipeline2_virtual2", "megatron", 1),
)


def for_task(config: PretrainConfig, task: str) -> PretrainConfig:
    """A finalised configuration of pretraining with the head of a task on its model."""
    one = ALL_TASKS[task]
    return replace(config, model=replace(config.model, head=one.head, num_labels=one.num_labels))


def labelled_batch(config: PretrainConfig, task: str, samples: np.ndarray) -> dict[str, Tensor]:
    """Arrays of the samples with these numbers, padded on the right."""
    if task in ("choice", "likely_choice"):
        rows = [_row(config, task, CHOICES * int(sample) + choice) for sample in samples for choice in range(CHOICES)]
        right = [np.random.default_rng(int(sample)).integers(0, CHOICES) for sample in samples]
    else:
        rows, right = [_row(config, task, int(sample)) for sample in samples], []
    batch = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    if task.startswith("written"):
        (term,) = ALL_TASKS[task].losses.values()
        batch |= {name: torch.from_numpy(values) for name, values in _written(samples, term.over).items()}
    return batch | ({"choice_labels": torch.tensor(np.array(right))} if right else {})


def _row(config: PretrainConfig, task: str, number: int) -> dict[str, Any]:
    draw = np.random.default_rng(number)
    length = int(draw.integers(6, LENGTH + 1))
    index = np.arange(LENGTH)
    row = {
        # Padding is nowhere else: transformers finds the end of a text by it.
        "tokens": np.where(index < length, draw.integers(5, config.model.vocab_size, LENGTH), 0),
        "lengths": np.array(length),
        "samples": np.array(number),
    }
    if config.model.segments:  # data tell them whether or not the model has more than one
        row["segments"] = ((index >= length // 2) & (index < length)).astype(np.int64)
    return row | ALL_TASKS[task].labels(draw, length)


@dataclass(frozen=True, slots=True)
class Learned(Outcome):
    """An outcome with what the model says of the samples of the first step."""

    predictions: list[Prediction]


def batches(config: PretrainConfig, task: str, data_rank: int, step: int) -> list[dict[str, Tensor]]:
    """The microbatches of a data rank."""
    count, micro = num_microbatches(config.train, config.parallel), config.train.micro_batch
    first = step * config.train.global_batch + data_rank * count * micro
    return [labelled_batch(config, task, np.arange(first + m * micro, first + (m + 1) * micro)) for m in range(count)]


def learn(engine: Engine, config: PretrainConfig, task: str, data_rank: int) -> Learned:
    initial, every = pieces_of(engine), config.train.unfreeze_every
    steps = [(s, lr, trained_from(s, every, config.model.top)) for s, lr in enumerate(learning_rates(config))]
    engine.eval_step(batches(config, task, data_rank, 0))  # after which dropout has to act again
    results = [engine.train_step(batches(config, task, data_rank, s), lr, least) for s, lr, least in steps]
    sums, predictions = engine.predict_step(batches(config, task, data_rank, 0))
    return Learned(
        losses=[r.loss for r in results],
        terms=[dict(r.terms) for r in results],
        norms=[r.grad_norm for r in results],
        evaluation={name: (term.loss, term.correct, term.count) for name, term in sums.items()},
        initial=initial,
        final=pieces_of(engine),
        predictions=predictions,
    )


def learn_case(world: World, config: PretrainConfig, task: str) -> Learned:
    """Runs on every rank of a case of the pool."""
    groups = build_groups(
        grid_of(config), world.device, virtual_pipeline=config.parallel.virtual_pipeline, timeout=LONG
    )
    model, _ = model_of(config, groups, world.device.torch_device)
    engine = engine_of(config, groups, world.device.torch_device, model, ALL_TASKS[task].losses)
    return learn(engine, config, task, groups.coordinates.data)


def configured(world_size: int, task: str, **changes: Any) -> PretrainConfig:
    """The tiny configuration with the head of a task. Below it ELECTRA is a chain that a pipeline cuts, as in pretraining it is
    not, so the grid comes of another model's configuration."""
    grid = configure(world_size, **{name: value for name, value in changes.items() if name.startswith("parallel__")})
    rest = {name: value for name, value in changes.items() if not name.startswith("parallel__")}
    return for_task(replace(configure(1, **rest), parallel=grid.parallel), task)


def learner(ranks: RankPool, runs: str) -> Callable[..., list[Learned]]:
    """Trains a task on so many ranks, each case once: `learn(world_size, task, section__key=value)`."""

    @functools.cache
    def run(world_size: int, task: str, items: tuple[tuple[str, Any], ...]) -> list[Learned]:
        return ranks.run(world_size, learn_case, configured(world_size, task, run__root=runs, **dict(items)), task)

    return lambda world_size, task, **changes: run(world_size, task, tuple(sorted(changes.items())))


def agree_on_predictions(outcomes: Sequence[Learned], reference: Learned, task: str) -> None:
    """Every rank has been told what one rank predicts of each sample, once and in its order."""
    names = {term.over for term in ALL_TASKS[task].losses.values()}
    for outcome in outcomes:
        assert [o.tolist() for o, _ in outcome.predictions] == [o.tolist() for o, _ in reference.predictions]
        for (_, ours), (_, theirs) in zip(outcome.predictions, reference.predictions, strict=True):
            assert ours.keys() == theirs.keys() == names
            for name, expected in theirs.items():
                torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-5)
