"""Opens what a run reads: the objective that its tokenizer allows, and the samples that the objective asks for.

Needs no process group and no PyTorch, so that a store which does not fit is refused on the login node already.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dist_plm.core.errors import ConfigError, DataError
from dist_plm.data.samples import Arrays
from dist_plm.data.sampling.blend import Dataset
from dist_plm.data.sampling.build_dataset import Form, open_samples, tokenizer_store
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.data.store.manifest import read_manifest
from dist_plm.data.store.splits import prefix_of_pair, refuse_shares
from dist_plm.data.store.verify import tokenizer_of_store
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.objectives.base import Objective
from dist_plm.objectives.build import build_objective
from dist_plm.objectives.checked import checked
from dist_plm.objectives.tasks.base import Scorer
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.derived import checkpoints_of
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import DataConfig, ModelConfig, PretrainConfig, SamplesConfig, Training
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.train.healing.acts import skipped_samples
from dist_plm.train.labelled import Labelled, open_labelled
from dist_plm.train.opening.expected_position import expected_position
from dist_plm.train.startup.run_position import Position


@dataclass(frozen=True, slots=True)
class RunData:
    """Holds what a run reads.

    Args:
        samples: those of "train", and of "validation" where the run evaluates.
        trim: takes padding out of microbatches.
        scorer: makes what measures a task on the validation samples.
        enlarged: the tokenizer, where the run gave it more tokens.
        in_training: what collates training samples, where that is not the objective.
        warnings: what a person is to know of the samples.
        count_tokens: counts those of training samples from one number to before another; None: rows are full.
    """

    objective: Objective[Any]
    samples: Mapping[str, Dataset]
    trim: Callable[[Arrays], Arrays] | None = None
    scorer: Callable[[], Scorer] | None = None
    count_tokens: Callable[[int, int], int] | None = None
    enlarged: Tokenizer | None = None
    in_training: Objective[Any] | None = None
    warnings: Sequence[str] = ()

    @property
    def learned(self) -> Objective[Any]:
        """Gives what collates training samples."""
        return self.in_training or self.objective


def open_run(config: Training, world_size: int) -> tuple[Training, RunData]:
    """Completes a configuration, and opens the data that it reads.

    Raises:
        ConfigError: the configuration is at fault.
        DataError: the data cannot be used.
    """
    if isinstance(config, FinetuneConfig):
        complete, labelled = open_labelled(config, world_size)
        return complete, _labelled_data(complete, labelled)
    assert isinstance(config, PretrainConfig)
    complete = finalize(config, world_size=world_size, vocab_size=vocab_size_of(tokenizer_store(config.data)))
    position = begins_at(complete)
    data = open_data(complete.data, complete.objective, complete.train, complete.model, position)
    if complete.model.vocab_size is None:
        raise ConfigError(
            [f"model.vocab_size is missing: {config.data.stores[0]} is no prepared store, and does not tell it"]
        )
    return complete.assumed(), data


def _labelled_data(config: FinetuneConfig, labelled: Labelled) -> RunData:
    data, seed = config.data, config.train.seed
    scorer = None
    validation = labelled.tables.get("validation")
    if validation is not None and not config.task.writes:
        scorer = partial(labelled.task.scorer, validation)
    check = partial(checked, config.task, length=data.sequence_length)
    samples = {split: labelled.samples(split, data, seed) for split in labelled.tables}
    return RunData(
        check(labelled.objective(data.sequence_length)),
        samples,
        labelled.trim(data.sequence_length, config.parallel),
        scorer,
        samples["train"].num_tokens,
        labelled.enlarged,
        check(labelled.objective(data.sequence_length, learns=True)),
        labelled.warnings,
    )


def begins_at(config: PretrainConfig) -> Position:
    """Gives the position that `open_data` counts samples from: where a finalised run resumes, if its samples come to an end."""
    if not config.data.blend or any(source.max_epochs is None for source in config.data.blend):
        return Position()
    return expected_position(config.train.resume, checkpoints_of(config.run, config.checkpoint))


def samples_to_end(train: TrainConfig, data: SamplesConfig, position: Position) -> int:
    """Counts the samples that there have to be, those that are skipped among them, for a run that goes on from `position`; 0
    where it has come to its end."""
    steps = (train.stop_at or train.steps) - position.step
    if steps <= 0:
        return 0
    taken = position.samples + sum(n * batch for n, batch in BatchSizes.of(train).runs(position.samples, steps))
    return skipped_samples(data.skip_samples, position.history).runs(0, taken)[-1][1]


def open_data(
    data: DataConfig,
    objective: ObjectiveConfig,
    train: TrainConfig,
    model: ModelConfig,
    position: Position | None = None,
) -> RunData:
    """Opens what a finalised run learns, and the samples it learns from.

    Args:
        position: that it goes on from; None is the beginning.
    Raises:
        ConfigError: the data's tokenizer lacks what the objective needs.
        DataError: the data cannot be used.
    """
    refuse_shares(data, "split", data.stores)
    learned = build_objective(
        objective,
        special_tokens(tokenizer_store(data)),
        seed=train.seed,
        sequence_length=data.sequence_length,
        has_decoder=model.has_decoder,
    )
    form = form_of(objective, learned, data.sequence_length)
    splits = ["train"] if train.eval_samples == 0 else ["train", "validation"]
    needed = {"train": samples_to_end(train, data, position or Position())}
    known = {"seed": train.seed, "vocab_size": model.vocab_size}
    samples: dict[str, Dataset] = {}
    for split in splits:
        try:
            samples[split] = open_samples(data, split, form, num_samples=needed.get(split, 0), **known)
        except DataError as error:
            if split == "train":
                raise
            never = "train.eval_samples=0 train.eval_every=0"
            raise DataError(f"{error}; or train without evaluating, with {never}") from None
    return RunData(checked(objective, learned, data.sequence_length), samples)


def vocab_size_of(path: str | None) -> int | None:
    """Counts the tokens of a prepared store's tokenizer; a bare Megatron pair does not tell."""
    return None if path is None or not Path(path).is_dir() else read_manifest(path).tokenizer.vocab_size


def special_tokens(path: str | None) -> SpecialTokens | None:
    """Finds the special tokens of a prepared store's tokenizer; a bare Megatron pair does not tell.

    Raises:
        DataError: there is nothing, the store or its tokenizer cannot be read, or they do not belong together.
    """
    if path is None:
        return None
    if not Path(path).is_dir():
        prefix_of_pair(Path(path))  # else people were told that it lacks special tokens
        return None
    tokenizer = tokenizer_of_store(path)
    return tokenizer.special_tokens().with_vocabulary(tokenizer.pieces())


def form_of(objective: ObjectiveConfig, learned: Objective[Any], sequence_length: int) -> Form:
    """Tells in what form an objective takes the text of a run."""
    window_length = learned.window_length(sequence_length)
    return Form(
        source=learned.source,
        window_length=window_length,
        predicts_next=objective.predicts_next,
        with_second=objective.pairs == "nsp",
        frame=sequence_length - window_length if objective.isolates_documents else 0,
    )
