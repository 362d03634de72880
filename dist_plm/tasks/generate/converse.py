"""Talks with a model in a terminal, turn by turn, on any process grid."""

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from dist_plm.core.errors import EXIT_FINISHED, ConfigError
from dist_plm.core.streams import tell, visible
from dist_plm.distributed.collectives import on_first
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.tasks.generate.batches import Continuation
from dist_plm.tasks.generate.generate import answered, writer_of
from dist_plm.tasks.inference.open_model import Session, session_of

Message = dict[str, str]


def converse(config: GenerateConfig, environ: Mapping[str, str] = os.environ) -> int:
    """Answers what is typed until its end (Ctrl-D). Every rank calls it. Returns the exit code.

    Raises:
        UserError: on every rank alike.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text end no talk
    with session_of(config, environ) as session:
        if session.is_first:
            tell("say something; an empty line begins anew, Ctrl-D ends")
        for _ in turns(config, session, typed):
            pass
    return EXIT_FINISHED


def typed() -> str | None:
    """Reads a line; None at the end of what is typed."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


def turns(config: GenerateConfig, session: Session, read: Callable[[], str | None]) -> Iterator[list[Message]]:
    """Yields the dialogue after each answer, on every rank. Collective over all ranks, of which the first reads.

    Raises:
        ConfigError: on every rank, where the model does not write.
    """
    if session.config.model.is_encoder:
        raise ConfigError([f"chat = true: {session.source.where} fills in what is masked and does not talk"])
    writer, dialogue, number = writer_of(config, session), list[Message](), 0
    streams = session.is_first and sys.stdout.isatty()
    while (said := on_first(session.groups.world, read)) is not None:
        if not said:
            dialogue = []
            continue
        dialogue.append({"role": "user", "content": said})
        turn = replace(config, seed=config.seed + number)  # draws of its own
        while True:
            try:
                (answer, *_), streamed = answered(turn, session, [dialogue], streams=streams, writer=writer)
                break
            except ConfigError:  # the model has no positions left
                if len(dialogue) == 1:
                    raise
                dialogue = dialogue[2:]
                if session.is_first:
                    tell("(what was said first is forgotten)")
        assert isinstance(answer, Continuation)
        if session.is_first and not streamed:
            tell(visible(answer.text.strip()) if sys.stdout.isatty() else answer.text.strip())
        dialogue.append({"role": "assistant", "content": answer.text.strip()})
        number += 1
        yield list(dialogue)
