"""Measures a model that was fine-tuned for a task on labelled rows: what its head says of them, or its loss and what it writes
beside what it should."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from dist_plm.core.errors import ConfigError
from dist_plm.data.labelled.dataset import LabelledDataset
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.labelled.rows import RowFile
from dist_plm.data.labelled.table import Table, num_examples
from dist_plm.engines.base import Engine
from dist_plm.objectives.build import build_task, build_writing_task
from dist_plm.objectives.metrics.text_overlap import TextScores
from dist_plm.objectives.tasks.base import Scorer, Task
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.spec.tasks import TaskConfig
from dist_plm.tasks.evaluate.objective import RunnerScores
from dist_plm.tasks.generate.batches import Continuation
from dist_plm.tasks.generate.generate import answered
from dist_plm.tasks.inference.open_model import NEEDED, Session, build_runner
from dist_plm.tasks.inference.outputs import write_json, write_lines
from dist_plm.tasks.inference.source import alike
from dist_plm.train.evaluation import Evaluator
from dist_plm.train.labelled import Labelled, columns_of, encoded, written_by

#: Begin the names of all weights: a head has no part that is not asked.
_ALL = ("",)


def measure_task(config: EvaluateConfig, session: Session) -> dict[str, Any]:
    """Measures all rows, or the first `limit`; returns what the file of results holds. Collective.

    Raises:
        UserError: on every rank alike.
    """
    task, rows = session.config.objective, config.data.rows
    assert rows is not None
    if not isinstance(task, TaskConfig):
        raise ConfigError(
            [f"on = 'task' needs a model that was fine-tuned for one, and {session.source.where} was not"]
        )
    file = RowFile("data.rows", rows, "test", config.data.header, config.limit or None)
    if task.head == "language_model":
        results, lines = _of_writer(config, session, task, file)
    else:
        results, lines = _of_head(config, session, task, file)
    return {
        "model": session.source.where,
        "on": config.on,
        "data": rows,
        "task": task.name,
        "results": results,
        "samples": lines[: config.samples],
    }


def _of_head(
    config: EvaluateConfig, session: Session, task: TaskConfig, file: RowFile
) -> tuple[dict[str, float | int], list[Any]]:
    """Gives what the evaluation of training measures, and the lines of the first file of predictions."""
    body = build_task(task)
    columns = alike(session.groups.world, lambda: _columns(config, session, task, file))
    table = alike(session.groups.world, lambda: encoded(file, columns, body, _encoder(session)))
    files: dict[str, Any] = {}
    keep = files.update if session.is_first else None
    results = _measured(config, session, body, table, partial(body.scorer, table), keep)
    if config.predictions is not None:
        _write_predictions(Path(config.predictions), files)
    lines = next((content for name, content in files.items() if name.endswith(".jsonl")), [])
    return {**results, "rows": sum(1 for _ in file)}, lines


def _write_predictions(path: Path, files: Mapping[str, Any]) -> None:
    """Writes the first file to `path`, and others of a task beside it, under their own names."""
    for number, (name, content) in enumerate(files.items()):
        where = str(path if number == 0 else path.with_name(name))
        if name.endswith(".jsonl"):
            write_lines(where, content)
        else:
            write_json(where, content)


def _of_writer(
    config: EvaluateConfig, session: Session, task: TaskConfig, file: RowFile
) -> tuple[dict[str, float | int], list[Any]]:
    """Gives the loss, what is measured of texts, and a line for each row."""
    table, pairs = alike(session.groups.world, lambda: _opened(config, session, task, file))
    losses = _measured(config, session, build_writing_task(task), table)
    scores, lines = TextScores(), []
    written = _written(config, session, task, [source for source, _ in pairs]) if pairs else []
    for (source, target), answer in zip(pairs, written, strict=True):
        text = answer.text.strip()  # behind a prompt it may begin with a space
        scores.add(text, target)
        lines.append({"source": source, "target": target, "prediction": text, "finish": answer.finish})
    if session.is_first and config.predictions is not None:
        write_lines(config.predictions, lines)
    return {**losses, **(scores.measures() if pairs else {}), "rows": num_examples(table)}, lines


def _opened(
    config: EvaluateConfig, session: Session, task: TaskConfig, file: RowFile
) -> tuple[Table, list[tuple[str, str]]]:
    """The rows as examples, and as sources and targets where what is written is measured."""
    columns, body = _columns(config, session, task, file), build_writing_task(task)
    table = encoded(file, columns, body, _encoder(session))
    return table, [body.pair(row, columns) for row in file] if task.measures_text else []


def _columns(config: EvaluateConfig, session: Session, task: TaskConfig, file: RowFile) -> dict[str, str]:
    """The columns that the task reads, named as here, or else as the run had them."""
    return columns_of(file, task, config.data.columns or session.source.columns)


def _encoder(session: Session) -> ExampleEncoder:
    run = session.config
    return ExampleEncoder(session.vocabulary.tokenizer, run.data.sequence_length, run.model.has_decoder)


def _measured(
    config: EvaluateConfig,
    session: Session,
    body: Task[Any],
    table: Table,
    scorer: Callable[[], Scorer] | None = None,
    keep: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, float | int]:
    """Measures what the evaluation of training does."""
    run, encoder = session.config, _encoder(session)
    written = written_by(run.model, body.config, encoder.length)
    labelled = Labelled(body, {"test": table}, encoder.padding, written)
    learned = labelled.objective(encoder.length)
    count = num_examples(table)
    train = TrainConfig(steps=1, global_batch=1, micro_batch=config.batch_size, eval_samples=count)
    dataset, trim = LabelledDataset(table, None, "rows"), labelled.trim(encoder.length, run.parallel)
    evaluator = Evaluator(train, session.groups, dataset, learned, trim, scorer, keep)
    scores = RunnerScores(build_runner(session, needed=_ALL if scorer is not None else NEEDED), learned.losses)
    return dict(evaluator(cast(Engine, scores), lambda: None))


def _written(config: EvaluateConfig, session: Session, task: TaskConfig, sources: Sequence[str]) -> list[Continuation]:
    length = session.config.data.sequence_length
    asked = GenerateConfig(
        from_=config.from_,
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens
        or task.longest_answer(length, has_decoder=session.config.model.has_decoder),
        num_beams=config.num_beams,
    )
    answers, _ = answered(asked, session, list(sources))
    return [answer for answer in answers if isinstance(answer, Continuation)]
