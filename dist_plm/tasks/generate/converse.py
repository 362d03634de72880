"""Talks with a model in a terminal, turn by turn, on any process grid."""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import replace

import torch.distributed as dist

from dist_plm.core.errors import EXIT_FINISHED, ConfigError
from dist_plm.core.streams import tell, visible
from dist_plm.distributed.collectives import on_first
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.tasks.generate.batches import Continuation
from dist_plm.tasks.generate.check_generation import rows_to_write
from dist_plm.tasks.generate.generate import answered, writer_of
from dist_plm.tasks.inference.open_model import Session, session_of

#: How long other ranks wait for the first one at once: a person may think for longer than a collective lasts.
_LOOK_SECONDS = 0.5

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


def heard(group: dist.ProcessGroup, read: Callable[[], str | None]) -> str | None:
    """Gives on every rank what the first one reads, however long that takes. Collective.

    Raises:
        CheckpointError: on every rank, where it cannot be read.
    """
    if group.size() == 1:
        return on_first(group, read)
    line = _begun(read) if group.rank() == 0 else Future[str | None]()

    def look() -> tuple[str | None] | None:
        wait([line], _LOOK_SECONDS)
        return (line.result(),) if line.done() else None

    while (found := on_first(group, look)) is None:
        pass
    return found[0]


def _begun(read: Callable[[], str | None]) -> Future[str | None]:
    """Reads in a thread, so that this one hears signals and other ranks; a daemon, as nothing else ends a read."""
    line = Future[str | None]()

    def finish() -> None:
        try:
            line.set_result(read())
        except BaseException as error:
            line.set_exception(error)

    threading.Thread(target=finish, name="talk", daemon=True).start()
    return line


def turns(config: GenerateConfig, session: Session, read: Callable[[], str | None]) -> Iterator[list[Message]]:
    """Yields the dialogue after each answer, on every rank. Collective over all ranks, of which the first reads.

    Raises:
        ConfigError: on every rank, where the model does not write.
    """
    if session.config.model.is_encoder:
        raise ConfigError([f"chat = true: {session.source.where} fills in what is masked and does not talk"])
    rows_to_write(config, session, [])  # refuses settings before anything is said
    writer, dialogue, number = writer_of(config, session), list[Message](), 0
    streams = session.is_first and sys.stdout.isatty()
    while (said := heard(session.groups.world, read)) is not None:
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
