"""Checks that a fine-tuning run says what it reads, how long it goes, and what its task has."""

from collections.abc import Iterator
from pathlib import Path

from dist_plm.config.decode import show
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.rules.sections import header_problems, no_effect, repeated
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.spec.tasks import TASKS
from dist_plm.spec.tasks.base import WritingConfig

#: Suffixes of tables and texts that are never read as rows. Others may be those of a saved dataset, which is a directory.
_NOT_READ = {
    *(".xlsx", ".xls", ".ods", ".doc", ".docx", ".pdf", ".html", ".xml", ".zip", ".tar"),
    *(".pkl", ".pickle", ".npy", ".npz", ".orc", ".avro", ".db", ".sqlite"),
}


def labelled_problems(config: FinetuneConfig) -> Iterator[str]:
    """Yields a sentence for each thing wrong with the settings that fine-tuning alone has."""
    yield from _files(config)
    yield from _columns(config)
    yield from _augmentation(config)
    yield from _length(config)
    yield from _beginning(config)
    yield from _early_stopping(config)
    yield from _writing(config)
    yield from _reading_twice(config)


def _files(config: FinetuneConfig) -> Iterator[str]:
    data = config.data
    for name in ("train", "validation", "test", "tokenizer"):
        yield from path_problems(f"data.{name}", getattr(data, name))
    for name in ("train", "validation", "test"):
        yield from _unreadable(f"data.{name}", getattr(data, name))
    if data.validation is None and config.checkpoint.keep_best is not None:
        yield (
            f"checkpoint.keep_best = {show(config.checkpoint.keep_best)} has nothing to go by without data.validation: give "
            "data.validation, or set checkpoint.keep_best=null"
        )
    if data.validation == data.train:
        yield (
            f"data.validation = {show(data.validation)} is data.train as well, so that nothing would be told of other rows: "
            "give another file, or leave data.validation out"
        )
    added = (*data.new_tokens, *data.new_special_tokens)
    for name in dict.fromkeys((*(name for name in added if name != name.strip() or not name), *repeated(added))):
        yield (
            f"data.new_tokens and data.new_special_tokens have {show(name)}, which cannot be: give each token once, without "
            "spaces at its ends"
        )
    yield from header_problems(data.header, (data.train, data.validation, data.test))


def _unreadable(key: str, path: str | None) -> Iterator[str]:
    """A file that is not here may be on the machines of the run, if it can be one that is read."""
    if path is None or Path(path).exists():
        return
    if set("*?") & set(path):
        yield f"{key} = {show(path)} names several files: patterns are not read here, so join the files and name that one"
    elif Path(path).suffix.lower() in _NOT_READ:
        yield f"{key} = {show(path)} is of a format that is not read: save it as .csv, .tsv, .jsonl or .parquet"


def _columns(config: FinetuneConfig) -> Iterator[str]:
    known = list(config.task.columns)
    for name, column in config.data.columns.items():
        if name not in known:
            yield (
                f"data.columns.{name} is nothing that task.name = {show(config.task.name)} reads"
                f"{did_you_mean(near(str(name), known))}; it reads {', '.join(known)}"
            )
        if not isinstance(column, str):
            yield f"data.columns.{name} = {show(column)} is not allowed: it must be the name of a column"


def _augmentation(config: FinetuneConfig) -> Iterator[str]:
    if config.data.augment is None:
        return
    yield from config.data.augment.problems()
    if not config.task.takes_changed_words:
        fitting = ", ".join(f"task={name}" for name, task in TASKS.items() if task.takes_changed_words)
        yield (
            f"data.augment would change what task.name = {show(config.task.name)} is to learn with the words: leave it out; it "
            f"is for {fitting}"
        )


def _length(config: FinetuneConfig) -> Iterator[str]:
    train = config.train
    if train.batch_rampup is not None:
        yield "train.batch_rampup has no place in fine-tuning, which counts in epochs: leave it out"
    if train.epochs is None and train.steps is None:
        yield "train.epochs is missing: give train.epochs=3, or the length in updates as train.steps"
    if train.epochs is not None and train.steps is not None and train.num_samples is None:
        yield (
            f"train.epochs = {train.epochs:g} and train.steps = {train.steps} are both given: set one of them to null"
        )


def _beginning(config: FinetuneConfig) -> Iterator[str]:
    if config.task.head_of(config.model) != "language_model" and config.train.init_optimizer != "none":
        yield (
            f"train.init_optimizer = {show(config.train.init_optimizer)} has no moments for the head of task.name = "
            f"{show(config.task.name)}, which begins anew: leave it at none"
        )


def _early_stopping(config: FinetuneConfig) -> Iterator[str]:
    asked, known = config.train.early_stopping, config.task.measured
    if asked is None:
        return
    if config.data.validation is None:
        yield (
            "train.early_stopping has nothing to go by without data.validation: give data.validation, or set "
            "train.early_stopping=null"
        )
    if config.train.eval_every == 0:
        yield "train.early_stopping has nothing to go by with train.eval_every = 0: leave train.eval_every at null"
    if asked.metric is not None and asked.metric not in known:
        meant = did_you_mean(near(asked.metric.removeprefix("eval/"), known))
        yield (
            f"train.early_stopping.metric = {show(asked.metric)} is no measure of {config.task.told}"
            f"{config.task.told_of_measures}{meant}; it has {', '.join(known)}"
        )


def _reading_twice(config: FinetuneConfig) -> Iterator[str]:
    model = config.model
    if config.task.reads_twice and model.hidden_dropout == model.attention_dropout == 0.0:
        yield "task.r_drop has no effect without dropout: set model.hidden_dropout, or leave it out"


def _writing(config: FinetuneConfig) -> Iterator[str]:
    task = config.task
    if not isinstance(task, WritingConfig):
        return
    if not config.writes_when_evaluated:
        yield from no_effect(task, "task", ("written_rows",), "task.measure_writing = false")
        return
    if task.measure_writing and config.data.validation is None:
        yield "task.measure_writing = true has nothing to answer without data.validation: give data.validation"
