"""Measures a model that was fine-tuned to write: its loss on labelled rows, and what it writes beside what it should."""

from collections.abc import Sequence
from typing import Any, cast

from dist_plm.core.errors import ConfigError
from dist_plm.data.labelled.dataset import LabelledDataset
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.labelled.rows import RowFile
from dist_plm.data.labelled.table import Table
from dist_plm.engines.base import Engine
from dist_plm.objectives.build import build_writing_task
from dist_plm.objectives.metrics.text_overlap import TextScores
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.spec.tasks import TaskConfig
from dist_plm.tasks.evaluate.objective import RunnerScores
from dist_plm.tasks.generate.batches import Continuation
from dist_plm.tasks.generate.generate import answered
from dist_plm.tasks.inference.open_model import Session, build_runner
from dist_plm.tasks.inference.outputs import write_lines
from dist_plm.tasks.inference.source import alike
from dist_plm.train.evaluation import Evaluator
from dist_plm.train.labelled import Labelled, columns_of, encoded, written_by


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
    table, pairs = alike(session.groups.world, lambda: _opened(config, session, task))
    count = len(next(iter(table.values())))
    count = min(config.limit or count, count)
    losses = _losses(config, session, task, table, count)
    scores, lines, pairs = TextScores(), [], pairs[:count]
    written = _written(config, session, task, [source for source, _ in pairs]) if pairs else []
    for (source, target), answer in zip(pairs, written, strict=True):
        text = answer.text.strip()  # behind a prompt it may begin with a space
        scores.add(text, target)
        lines.append({"source": source, "target": target, "prediction": text, "finish": answer.finish})
    if session.is_first and config.predictions is not None:
        write_lines(config.predictions, lines)
    return {
        "model": session.source.where,
        "on": config.on,
        "data": rows,
        "task": task.name,
        "results": {**losses, **(scores.measures() if pairs else {}), "rows": count},
        "samples": lines[: config.samples],
    }


def _opened(config: EvaluateConfig, session: Session, task: TaskConfig) -> tuple[Table, list[tuple[str, str]]]:
    """The rows as examples, and as sources and targets where what is written is measured."""
    assert config.data.rows is not None
    file = RowFile("data.rows", config.data.rows, "test", config.data.header)
    columns, body = columns_of(file, task, config.data.columns), build_writing_task(task)
    table = encoded(file, columns, body, _encoder(session))
    return table, [body.pair(row, columns) for row in file] if task.measures_text else []


def _encoder(session: Session) -> ExampleEncoder:
    run = session.config
    return ExampleEncoder(session.vocabulary.tokenizer, run.data.sequence_length, run.model.has_decoder)


def _losses(
    config: EvaluateConfig, session: Session, task: TaskConfig, table: Table, count: int
) -> dict[str, float | int]:
    """Measures what the evaluation of training does."""
    run, encoder = session.config, _encoder(session)
    written = written_by(run.model, task, encoder.length)
    labelled = Labelled(build_writing_task(task), {"test": table}, encoder.padding, written)
    learned = labelled.objective(encoder.length)
    train = TrainConfig(steps=1, global_batch=1, micro_batch=config.batch_size, eval_samples=count)
    dataset = LabelledDataset(table, None, "rows")
    evaluator = Evaluator(train, session.groups, dataset, learned, labelled.trim(encoder.length, run.parallel))
    scores = RunnerScores(build_runner(session), learned.losses)
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
