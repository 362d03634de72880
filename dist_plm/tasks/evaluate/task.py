"""Measures a model that was fine-tuned for a task on labelled rows: what its head says of them, or its loss and what it writes
beside what it should."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dist_plm.core.errors import ConfigError
from dist_plm.data.labelled.dataset import LabelledDataset
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.labelled.rows import RowFile
from dist_plm.data.labelled.table import Table, num_examples
from dist_plm.engines.base import Engine
from dist_plm.objectives.build import build_task, build_writing_task
from dist_plm.objectives.metrics.text_overlap import ChrF, TextScores
from dist_plm.objectives.tasks.base import Question, Scorer, Task
from dist_plm.objectives.tasks.encode_rows import EncodedRows, encoded
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.spec.tasks import TaskConfig, tasks_of
from dist_plm.spec.tasks.base import WritingConfig
from dist_plm.tasks.evaluate.asked_rows import AskedRows, Unmeasured, Weighed, worst_rows
from dist_plm.tasks.evaluate.objective import RunnerScores
from dist_plm.tasks.evaluate.sums import check_numbers
from dist_plm.tasks.inference.open_model import NEEDED, FoundModel, Session, build_runner, check_heads
from dist_plm.tasks.inference.outputs import write_json, write_lines
from dist_plm.tasks.inference.source import alike
from dist_plm.train.evaluation import Evaluator
from dist_plm.train.labelled import Labelled, written_by

# Writing brings Transformers, which what only measures does without.
if TYPE_CHECKING:
    from dist_plm.tasks.generate.batches import Continuation

#: Begin the names of all weights: a head has no part that is not asked.
_ALL = ("",)


def measure_task(config: EvaluateConfig, session: Session) -> dict[str, Any]:
    """Measures all rows, or the first `limit`; returns what the file of results holds. Of rows without what the model is to say
    nothing is measured. Collective.

    Raises:
        UserError: on every rank alike.
    """
    task = _task_of(session)
    rows = alike(session.groups.world, lambda: _asked_rows(config, session, task))
    signatures: Mapping[str, str] = {}
    table, warnings = alike(session.groups.world, lambda: _encoded(session, task, rows))
    if isinstance(task, WritingConfig):
        measures, lines = _of_writer(config, session, task, rows, table)
        signatures = _scores(config, task).signatures if "bleu" in measures else {}
    else:
        measures, lines = _of_head(config, session, task, rows, table)
    return {
        "model": session.source.where,
        "on": config.on,
        "data": config.data.rows,
        "task": task.name,
        "results": {**(measures if rows.answered else {}), "rows": sum(1 for _ in rows.file)},
        "samples": lines[: config.samples],
        **({} if rows.answered else {"unmeasured": task.answer}),
        **({"signatures": signatures} if signatures and rows.answered else {}),
        **({"warnings": list(warnings)} if warnings and rows.answered else {}),
    }


def check_task_rows(config: EvaluateConfig, found: FoundModel) -> None:
    """Reads all rows, as those do that measure them, in one process that builds no model.

    Raises:
        UserError: they cannot be used, or the model has no head for them.
    """
    task = _task_of(found)
    _encoded(found, task, _asked_rows(config, found, task))
    check_heads(found, NEEDED if task.writes else _ALL)


def _task_of(found: FoundModel) -> TaskConfig:
    task = found.config.objective
    if not isinstance(task, TaskConfig):
        choices = " or ".join(f"task={name}" for name in tasks_of(found.config.model))
        raise ConfigError(
            [
                f"on = 'task' needs a model that was fine-tuned for one, and {found.source.where} does not tell which: say "
                f"that with {choices}"
            ]
        )
    return task


def _asked_rows(config: EvaluateConfig, found: FoundModel, task: TaskConfig) -> AskedRows:
    assert config.data.rows is not None
    file = RowFile("data.rows", config.data.rows, "test", config.data.header, config.limit or None)
    return AskedRows.of(config, found, task, file)


def _encoded(found: FoundModel, task: TaskConfig, rows: AskedRows) -> EncodedRows:
    """Makes rows of tokens; of texts that are to be written those alone of which something is known."""
    if task.writes and not rows.answered:
        return EncodedRows({}, ())
    file = rows.file
    if task.writes:
        body = build_writing_task(task)
        file = replace(file, kept=lambda row: body.is_answered(row, rows.columns))
    return encoded(file, rows.columns, build_task(task), _encoder(found))


def _of_head(
    config: EvaluateConfig, session: Session, task: TaskConfig, rows: AskedRows, table: Table
) -> tuple[Mapping[str, float], list[Any]]:
    """Gives what the evaluation of training measures, and the rows of the largest loss; where nothing is measured, what is said
    of the first ones."""
    body = build_task(task)
    files: dict[str, Any] = {}
    keep = files.update if session.is_first else None
    scorer, losses = partial(body.scorer, table), np.zeros(num_examples(table))
    made = scorer if rows.answered else lambda: Unmeasured(scorer())
    weighed = (lambda: Weighed(scorer(), table, losses)) if rows.answered and config.samples else made
    measures = _measured(config, session, body, table, weighed, keep)
    if config.predictions is not None:
        _write_predictions(Path(config.predictions), files)
    said = next(iter(files.values()), [])
    if rows.answered and config.samples and files:
        told = [_alone(line) for line in (said.values() if isinstance(said, dict) else said)]
        return measures, worst_rows(rows, table, losses, told, config.samples)
    return measures, _by_id(said) if isinstance(said, dict) else said


def _by_id(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Gives a line for each row, of what a file tells by the ids of rows."""
    return [{"row": row, "id": one, "prediction": text} for row, (one, text) in enumerate(said.items())]


def _alone(line: Any) -> Any:
    """Gives what a line of predictions says, without the number of its row."""
    if not isinstance(line, dict):
        return line
    (said,) = (value for name, value in line.items() if name != "row")
    return said


def _write_predictions(path: Path, files: Mapping[str, Any]) -> None:
    """Writes the first file to `path`, and others of a task beside it, so that two files of predictions share none."""
    for number, (name, content) in enumerate(files.items()):
        where = str(path if number == 0 else path.with_name(f"{path.stem}.{name}"))
        if name.endswith(".jsonl"):
            write_lines(where, content)
        else:
            write_json(where, content)


def _of_writer(
    config: EvaluateConfig, session: Session, task: WritingConfig, rows: AskedRows, table: Table
) -> tuple[Mapping[str, float], list[Any]]:
    """Gives the loss, what is measured of texts, and a line for each row that was answered. Where some rows lack the text,
    those that have it are measured, and counted.

    Args:
        table: of answered rows.
    """
    body, measures, lines = build_writing_task(task), {}, []
    if rows.answered:
        measures = _measured(config, session, body, table)
    if not (task.measures_text or config.predictions is not None or config.samples):
        return measures, lines
    pairs = alike(session.groups.world, lambda: [body.pair(row, rows.columns) for row in rows.file])
    scores, close = _scores(config, task), dict[int, float]()
    written = _written(config, session, task, [asked for asked, _ in pairs])
    for number, ((asked, answer), said) in enumerate(zip(pairs, written, strict=True)):
        text = said.text.strip()  # behind a prompt it may begin with a space
        known = {} if answer is None else {"target": answer}
        if answer is not None:
            scores.add(text, answer)
            close[number] = _closeness(text, answer)
        source = asked if isinstance(asked, str) else list(asked)
        lines.append({"source": source, **known, "prediction": text, "finish": said.finish})
    if session.is_first and config.predictions is not None:
        write_lines(config.predictions, lines)
    if not close:
        return measures, lines
    counted = {"scored_rows": len(close)} if len(close) < len(lines) else {}
    worst = sorted(close, key=lambda number: close[number])[: config.samples]
    return {**measures, **scores.measures(), **counted}, [{"row": n, "chrf": close[n], **lines[n]} for n in worst]


def _scores(config: EvaluateConfig, task: WritingConfig) -> TextScores:
    return TextScores.split_by(config.bleu_tokenizer or task.bleu_tokenizer)


def _closeness(text: str, reference: str) -> float:
    chrf = ChrF()
    chrf.add(text, reference)
    return chrf.score()


def _encoder(found: FoundModel) -> ExampleEncoder:
    run = found.config
    by_likelihood = run.model.predicts_tokens
    return ExampleEncoder(found.vocabulary.tokenizer, run.data.sequence_length, run.model.has_decoder, by_likelihood)


def _measured(
    config: EvaluateConfig,
    session: Session,
    body: Task[Any],
    table: Table,
    scorer: Callable[[], Scorer] | None = None,
    keep: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, float | int]:
    """Measures what the evaluation of training does.

    Raises:
        DataError: on every rank, where that is no number.
    """
    run, encoder = session.config, _encoder(session)
    written = written_by(run.model, body.config, encoder.length)
    labelled = Labelled(body, {"test": table}, encoder.padding, written)
    learned = labelled.objective(encoder.length)
    count = num_examples(table)
    train = TrainConfig(steps=1, global_batch=1, micro_batch=config.batch_size, eval_samples=count)
    dataset, trim = LabelledDataset(table, None, "rows"), labelled.trim(encoder.length, run.parallel)
    evaluator = Evaluator(train, session.groups, dataset, learned, trim, scorer, keep)
    scores = RunnerScores(build_runner(session, needed=_ALL if scorer is not None else NEEDED), learned.losses)
    measures = dict(evaluator(cast(Engine, scores), lambda: None))
    check_numbers(measures, session.source.where, config.data.rows or "")
    return measures


def _written(
    config: EvaluateConfig, session: Session, task: TaskConfig, asked_of: Sequence[Question]
) -> "list[Continuation]":
    from dist_plm.tasks.generate.batches import Continuation
    from dist_plm.tasks.generate.generate import answered

    length = session.config.data.sequence_length
    asked = GenerateConfig(
        from_=config.from_,
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens
        or task.longest_answer(length, has_decoder=session.config.model.has_decoder),
        num_beams=config.num_beams,
    )
    answers, _ = answered(asked, session, asked_of, shortens=True)
    return [answer for answer in answers if isinstance(answer, Continuation)]
