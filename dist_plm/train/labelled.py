"""Opens what a fine-tuning run reads: labelled rows as examples, with what follows from them for the configuration."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import ConfigError, DataError, count_of
from dist_plm.data.labelled.columns import find_columns, names_of
from dist_plm.data.labelled.dataset import Collation, LabelledDataset, Trim
from dist_plm.data.labelled.dialogues import template_beside
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.labelled.rows import RowFile
from dist_plm.data.labelled.table import Ragged, Table, num_examples
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.objectives.base import IGNORED, LossTerm
from dist_plm.objectives.build import build_changing_task, build_task
from dist_plm.objectives.corruption.changeable_words import WordTable
from dist_plm.objectives.corruption.word_noise import WordNoise
from dist_plm.objectives.tasks.base import Task
from dist_plm.objectives.tasks.encode_rows import encoded, num_choices, refuse_choices
from dist_plm.objectives.tasks.twice import Twice
from dist_plm.spec.derived import directory_of
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import ModelConfig, ParallelConfig
from dist_plm.spec.schema_finetune import FinetuneConfig, FinetuneTrainConfig, LabelledDataConfig
from dist_plm.spec.tasks import TaskConfig

#: Directory of a run that holds the tokenizer to which it gave more tokens.
ENLARGED = "tokenizer"
#: Rows are padded to a multiple of this, which matrix units like.
_MULTIPLE = 8


Collate = Callable[[Any], dict[str, NDArray]]


@dataclass(frozen=True, slots=True)
class LabelledObjective:
    """Holds what a task's examples are to the rest of a run; see objectives.base.Objective."""

    losses: Mapping[str, LossTerm]
    collate: Collate
    source: Literal["windows", "pairs"] = "windows"

    def window_length(self, sequence_length: int) -> int:
        return sequence_length


@dataclass(frozen=True, slots=True)
class Labelled:
    """Holds the examples of a run.

    Args:
        task: its body.
        tables: of "train", and of "validation" where there is one.
        padding: the token that rows are filled up with.
        written: tokens that a decoder beside an encoder writes at most; None without one.
        enlarged: the tokenizer, where the run gave it more tokens.
        noise: wraps what collates training examples, where their words are changed.
        warnings: what a person is to know of the examples.
    """

    task: Task[Any]
    tables: Mapping[str, Table]
    padding: int
    written: int | None = None
    enlarged: Tokenizer | None = None
    noise: Callable[[Collate], Collate] | None = None
    warnings: Sequence[str] = ()

    def objective(self, length: int, *, learns: bool = False) -> LabelledObjective:
        """Builds what makes microbatches of examples, in training (`learns`) with what is changed of them."""
        fills = {"tokens": self.padding, **self.task.fills}
        left_out = self.task.config.scoring
        collate: Collate = Collation(length, fills, self.written, left_out, self.soft)
        collate = self.noise(collate) if learns and self.noise is not None else collate
        collate = Twice(collate, learns) if self.task.config.reads_twice else collate
        return LabelledObjective(self.task.losses, collate)

    @property
    def soft(self) -> Mapping[str, NDArray[np.float32]]:
        """Tells how much each class is learned where a label stands, see tasks.base.Task.soft."""
        if "train" in self.tables:
            return self.task.soft(self.tables["train"])
        return {} if self.task.config.counts_labels else self.task.soft(next(iter(self.tables.values())))

    def samples(self, split: str, data: LabelledDataConfig, seed: int) -> LabelledDataset:
        """The examples by number: shuffled in training, else as the file has them."""
        path = data.train if split == "train" else data.validation
        told = commonest(self.tables[split], getattr(self.task.config, "labels", ()))
        return LabelledDataset(self.tables[split], seed if split == "train" else None, Path(path or "").name, told)

    def trim(self, length: int, parallel: ParallelConfig) -> Trim | None:
        """Builds what takes padding out of microbatches; None where stages of a pipeline exchange one shape."""
        if parallel.pipeline > 1:
            return None
        table = next(iter(self.tables.values()))
        names = [name for name, column in table.items() if isinstance(column, Ragged)]
        names += [f"{name}_soft" for name in self.soft if name in names]
        slices = parallel.context * (parallel.tensor if parallel.sequence_parallel else 1)
        multiple = math.lcm(_MULTIPLE, slices)
        return Trim(tuple(names), length, multiple, self.written)


def open_labelled(config: FinetuneConfig, world_size: int) -> tuple[FinetuneConfig, Labelled]:
    """The configuration complete, with the labels and counts that its data tell, and the examples.

    Raises:
        ConfigError: the configuration is at fault.
        DataError: the data or the tokenizer cannot be used.
    """
    data = config.data
    path = tokenizer_begun_with(config)
    config = replace(config, data=replace(data, tokenizer=path))
    finalize(config, world_size=world_size, vocab_size=None)  # before anything is read
    tokenizer = Tokenizer.load(path)
    if data.adds_tokens:
        config, tokenizer = _with_tokens(config, tokenizer)
    files = {"train": RowFile("data.train", data.train, "train", data.header)}
    if data.validation is not None:
        files["validation"] = RowFile("data.validation", data.validation, "validation", data.header)
    columns = {split: columns_of(file, config.task, data.columns) for split, file in files.items()}
    config = replace(config, task=config.task.with_template(template_beside(path)))
    if config.task.finds_labels:
        config = replace(config, task=with_labels(config.task, files["train"], columns["train"]))
    task = build_task(config.task)
    by_likelihood = config.task.head_of(config.model) == "language_model"
    encoder = ExampleEncoder(tokenizer, data.sequence_length, config.model.has_decoder, by_likelihood)
    rows = {
        split: encoded(file, columns[split], task, encoder, scored=split != "train") for split, file in files.items()
    }
    tables = {split: one.table for split, one in rows.items()}
    warnings = [text for one in rows.values() for text in one.warnings]
    choices = num_choices(tables["train"])
    if "validation" in tables and (found := num_choices(tables["validation"])) != choices:
        refuse_choices(next(iter(files["validation"])).place, found, f"the rows of data.train have {choices}")
    config = replace(config, task=config.task.with_choices(choices), **_counted(config, tables))
    config = finalize(config, world_size=world_size, vocab_size=tokenizer.vocab_size)
    written = written_by(config.model, config.task, encoder.length)
    enlarged = tokenizer if data.adds_tokens else None
    noise = _noise(config, encoder)
    return config, Labelled(task, tables, encoder.padding, written, enlarged, noise, warnings)


def _noise(config: FinetuneConfig, encoder: ExampleEncoder) -> Callable[[Collate], Collate] | None:
    """Builds what changes words of training texts; None where nothing does.

    Raises:
        ConfigError: the tokenizer lacks what it needs.
    """
    augment = config.data.augment
    if augment is None:
        return None
    tokenizer = encoder.tokenizer
    special = tokenizer.special_tokens().with_vocabulary(tokenizer.pieces())
    if special.continues is None:
        raise ConfigError(["data.augment needs a tokenizer that tells words apart: this one does not; leave it out"])
    if augment.mask > 0.0 and special.mask is None:
        raise ConfigError([f"data.augment.mask = {augment.mask} has no token to mask with: set it to 0"])
    words = build_changing_task(config.task).changeable(WordTable(special.is_special(), special.continues), encoder)
    return lambda collate: WordNoise(collate, augment, words, special.mask, encoder.padding, config.train.seed)


def _with_tokens(config: FinetuneConfig, tokenizer: Tokenizer) -> tuple[FinetuneConfig, Tokenizer]:
    """Gives the run a tokenizer with more tokens, which it will keep, and rows for them where it begins with weights."""
    model, data = config.model, config.data
    tokenizer = tokenizer.with_tokens(data.new_tokens, data.new_special_tokens)
    if model.new_rows is None and (model.init_from is not None or config.train.init_from is not None):
        model = replace(model, new_rows="mean")
    kept = str(Path(directory_of(config.run)) / ENLARGED)
    return replace(config, model=model, data=replace(data, tokenizer=kept)), tokenizer


def written_by(model: ModelConfig, objective: ObjectiveConfig, sequence_length: int) -> int | None:
    """The tokens that a decoder beside an encoder writes at most; None without one."""
    return objective.target_length(sequence_length) if model.has_decoder else None


def tokenizer_begun_with(config: FinetuneConfig) -> str:
    """Finds the tokenizer that a run begins with.

    Raises:
        ConfigError: none is named.
    """
    path = config.data.tokenizer or config.model.init_from
    if path is None and config.train.init_from is not None:
        # It brings PyTorch.
        from dist_plm.train.startup.named_run import tokenizer_of_run

        path = tokenizer_of_run(config.train.init_from)
    if path is None:
        raise ConfigError(
            [
                "data.tokenizer is missing: give the tokenizer of the model, a file or a directory, or begin with one that has "
                "its own, model=from_hf model.init_from=DIR"
            ]
        )
    return path


def columns_of(file: RowFile, task: TaskConfig, given: Mapping[str, Any]) -> dict[str, str]:
    """The columns that a task reads, by what the file calls them.

    Raises:
        DataError: the file has no rows, or lacks one.
    """
    return find_columns(task.columns, given, names_in(file), file.path)


def names_in(file: RowFile) -> list[str]:
    """The names of a file's columns: those that any of its rows has.

    Raises:
        DataError: it has no rows.
    """
    first = next(iter(file), None)
    if first is None:
        raise DataError(f"{file.key} = {file.path} holds no rows: give a file with some")
    rows = file if file.rows_differ else [first]
    return list(dict.fromkeys(name for row in rows for name in names_of(row.values)))


def with_labels(task: TaskConfig, file: RowFile, columns: Mapping[str, str]) -> Any:
    """The task with the labels that a file names, or its rows have. Raises DataError where these are fewer than two."""
    known = next((names for column in columns.values() if (names := file.label_names(column))), ())
    if known:
        return replace(task, labels=known)  # pyright: ignore[reportCallIssue]
    found = build_task(task).labels(file, columns)
    if len(found) < 2:
        raise DataError(
            f"{file.key} = {file.path} has {count_of(len(found), 'label')} ({', '.join(found)}), and "
            "there is nothing to tell apart: give rows of two or more, or name the labels in task.labels"
        )
    return task.with_labels(found)


def _counted(config: FinetuneConfig, tables: Mapping[str, Table]) -> dict[str, Any]:
    """The settings that follow from how many examples there are."""
    sizes = {split: num_examples(table) for split, table in tables.items()}
    train = counted(config.train, sizes["train"], sizes.get("validation", 0))
    checkpoint = config.checkpoint_beside(train)
    return {"train": replace(train, early_stopping=config.early_stopping_beside(checkpoint)), "checkpoint": checkpoint}


def counted(train: FinetuneTrainConfig, num_train: int, num_validation: int) -> FinetuneTrainConfig:
    """Fills in what is None and follows from the numbers of examples."""
    epoch = -(-num_train // train.global_batch)
    steps, num_samples = train.steps, train.num_samples
    if steps is None:
        assert train.epochs is not None
        num_samples = max(round(train.epochs * num_train), 1)
        steps = -(-num_samples // train.global_batch)
    eval_samples = num_validation if train.eval_samples is None else train.eval_samples
    eval_every = train.eval_every
    if eval_every is None:
        eval_every = min(epoch, steps) if eval_samples else 0
    return replace(train, steps=steps, num_samples=num_samples, eval_every=eval_every, eval_samples=eval_samples)


def commonest(table: Table, labels: Sequence[str]) -> str:
    """Tells the share of the commonest class, which is the accuracy of a model that has learned nothing; empty where there are
    no classes."""
    classes, tags = table.get("class_labels"), table.get("tags")
    if isinstance(tags, Ragged):
        classes = tags.values[tags.values != IGNORED]
    if not isinstance(classes, np.ndarray) or not labels:  # numbers that are texts have classes, and no names of them
        return ""
    counts = np.bincount(classes)
    what, them = ("label", "them") if tags is None else ("tag", "their tags")
    return f"; the commonest {what}, {labels[int(counts.argmax())]}, is {counts.max() / len(classes):.1%} of {them}"
