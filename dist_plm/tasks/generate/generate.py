"""Lets a model write, or fill in what is masked, on any process grid."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from dist_plm.core.errors import EXIT_FINISHED, CheckpointError, count_of
from dist_plm.core.streams import tell, visible
from dist_plm.distributed.collectives import gather
from dist_plm.objectives.build import build_writing_task
from dist_plm.objectives.tasks.base import Question
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.tasks.generate.batches import Continuation, Decoding, PromptBatch, batches_of, continuation
from dist_plm.tasks.generate.check_generation import rows_to_fill, rows_to_write
from dist_plm.tasks.generate.fill_mask import Filled, fill
from dist_plm.tasks.generate.on_grid import GridWriter
from dist_plm.tasks.generate.prompts import PromptRow, check_known, encoder_of, read_prompts, task_of
from dist_plm.tasks.generate.show_continuations import Terminal, record, shown
from dist_plm.tasks.generate.with_transformers import TransformersWriter
from dist_plm.tasks.inference.open_model import Session, build_runner, session_of
from dist_plm.tasks.inference.outputs import check_out, write_lines


class Writer(Protocol):
    def write(self, batch: PromptBatch, decoding: Decoding) -> list[Continuation]:
        """Writes answers to all rows of a batch."""
        ...


def generate(config: GenerateConfig, environ: Mapping[str, str] = os.environ) -> int:
    """Answers all prompts, shows the answers and writes them to config.out. Every rank calls it. Returns the exit code.

    Raises:
        UserError: on every rank alike.
    """
    check_out(config.out, config)
    prompts = read_prompts(config)
    with session_of(config, environ) as session:
        streams = session.is_first and config.out is None and sys.stdout.isatty()
        answers, streamed = answered(config, session, prompts, streams=streams)
        if session.is_first and config.out is not None:
            write_lines(config.out, map(record, answers))
            tell(f"{config.out}: {count_of(len(answers), 'answer', ',')}")
        elif session.is_first and not streamed:
            text = "\n\n".join(map(shown, answers))
            tell(visible(text) if sys.stdout.isatty() else text)
    return EXIT_FINISHED


def answered(
    config: GenerateConfig,
    session: Session,
    prompts: Sequence[Question],
    *,
    streams: bool = False,
    writer: Writer | None = None,
    shortens: bool = False,
) -> tuple[list[Continuation | Filled], bool]:
    """All answers in the order of their prompts, on every rank, and whether they were printed while they were written.
    Collective over all ranks.

    Args:
        writer: of the same model, where there is one already.
        shortens: a prompt that leaves no room for an answer loses its beginning, and is not refused.
    Raises:
        UserError: on every rank alike.
    """
    check_known(prompts, config, session.vocabulary)
    if session.config.model.is_encoder:
        return [*_filled(config, session, list(map(str, prompts)))], False
    rows = rows_to_write(config, session, prompts, shortens=shortens)
    writer = writer_of(config, session) if writer is None else writer
    groups, decoding = session.groups, decoding_of(config, session)
    streams = streams and len(rows) == 1 and config.num_beams == 1
    mine = [row for position, row in enumerate(rows) if position % groups.grid.data == groups.coordinates.data]
    written: list[Continuation] = []
    for batch in batches_of(mine, config.batch_size):
        if streams:
            batch = replace(batch, streamer=_terminal(batch.rows[0], decoding))
        written += writer.write(batch, decoding)
    mine_is_broken = decoding.broken.were_seen()
    parts: list[tuple[list[Continuation], bool]] = gather(
        groups.world, (written if groups.is_first_of_model else [], mine_is_broken)
    )
    _check_numbers(session, broken=any(is_broken for _, is_broken in parts))
    told = [one for part, _ in parts for one in part]
    told.sort(key=lambda one: one.row.number)
    return [*told], streams


def _filled(config: GenerateConfig, session: Session, prompts: list[str]) -> list[Filled]:
    rows, vocabulary = rows_to_fill(config, session, prompts), session.vocabulary
    runner = build_runner(session)
    groups = session.groups
    found = [
        fill(runner, vocabulary, number, prompts[number], rows[number], config.best)
        for number in range(groups.coordinates.data, len(prompts), groups.grid.data)
    ]
    parts = gather(groups.world, found if groups.is_first_of_model else list[Filled]())
    filled = [one for part in parts for one in part]
    _check_numbers(session, broken=any(math.isnan(share) for one in filled for mask in one.masks for _, share in mask))
    return sorted(filled, key=lambda one: one.number)


def _check_numbers(session: Session, *, broken: bool) -> None:
    """Raises CheckpointError where a model's scores were no numbers: nobody is to take for an answer what follows from them."""
    if broken:
        raise CheckpointError(
            f"{session.source.where} gives scores that are no numbers: its weights are finite, so numbers of its layers "
            "overflow; try precision=fp32, or a checkpoint from before its run diverged"
        )


def writer_of(config: GenerateConfig, session: Session) -> Writer:
    """Builds what writes with the model of a session. Collective over all ranks."""
    grid = session.groups.grid
    alone, both_ways = grid.tensor == grid.pipeline == 1, reads_both_ways(session)
    if alone and not both_ways and (writer := TransformersWriter.of(session)) is not None:
        return writer
    return GridWriter(build_runner(session), both_ways)


def reads_both_ways(session: Session) -> bool:
    """Whether each token of a prompt sees all of it, as the model learned to read."""
    return session.config.objective.reads_prefix_both_ways and not session.config.model.has_decoder


def decoding_of(config: GenerateConfig, session: Session) -> Decoding:
    """Says how answers are written with the model of a session."""
    vocabulary, settings = session.vocabulary, session.source.settings
    special = vocabulary.special
    pad = special.pad if special.pad is not None else vocabulary.ends[0]
    start = None
    if session.config.model.has_decoder:
        given = settings.get("decoder_start_token_id")
        start = given if isinstance(given, int) else encoder_of(session).start
    task = task_of(config, session)
    more = () if task is None else build_writing_task(task).ends(encoder_of(session))
    return Decoding(config, vocabulary, tuple(dict.fromkeys((*vocabulary.ends, *more))), pad, start)


def _terminal(row: PromptRow, decoding: Decoding) -> Terminal:
    before, ends = row.prompt if row.goes_on else "", (*decoding.ends, decoding.pad)
    return Terminal(before, lambda tokens: continuation(row, tokens, decoding), ends, decoding.config.stop)
