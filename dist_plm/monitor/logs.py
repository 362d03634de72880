"""One log file a rank, `RUN_DIR/log/rank_00000.log`; rank 0 also speaks to the console."""

import io
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from dist_plm.config.credentials import mask
from dist_plm.core.errors import UserError, reason_of
from dist_plm.core.files import open_to_append

_FILE_FORMAT = "%(asctime)s %(levelname)s %(node)s rank %(rank)d %(name)s: %(message)s"

#: Loggers of the project; `__main__` is a launch script.
_OURS = ("dist_plm", "launch", "__main__")


def log_file(run_dir: Path, rank: int) -> Path:
    return run_dir / "log" / f"rank_{rank:05d}.log"


def setup_logging(
    run_dir: Path, *, rank: int, node: str | None = None, console: Callable[[str], None] | None = None
) -> Callable[[], None]:
    """Sends this process's logging to the rank's file, and to `console` if given.

    Each line of the file names node and rank. It gets our records from INFO, other libraries' and Python's warnings
    from WARNING, and is appended to. The console gets ours from INFO and other libraries' from ERROR, but none whose
    `extra` says `file_only`. Handlers of the root logger that write to stdout or stderr are put aside: they would say things
    twice and tear the progress bar.

    Args:
        node: the host's name when None.
        console: takes a line to show, usually `progress.say`; for rank 0 alone.

    Raises:
        UserError: the file cannot be added to, or is a link.
    Returns:
        a function that closes the file and restores what was before.
    """
    path = log_file(run_dir, rank)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be made: {reason_of(error, path.parent)}; move away what is there"
        ) from None
    file = _RankFile(path)
    defaults = {"node": socket.gethostname() if node is None else node, "rank": rank}
    file.setFormatter(_MaskingFormatter(_FILE_FORMAT, defaults=defaults))
    handlers: list[logging.Handler] = [file]
    if console is not None:
        handlers.append(_ConsoleHandler(console))

    root = logging.getLogger()
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, _OURS))}
    replaced = [handler for handler in root.handlers if _writes_to_console(handler)]
    for handler in replaced:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    for logger in levels:
        logger.setLevel(logging.WARNING if logger is root else logging.INFO)
    logging.captureWarnings(True)

    def undo() -> None:
        logging.captureWarnings(False)
        for logger, level in levels.items():
            logger.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        for handler in replaced:
            root.addHandler(handler)

    return undo


class _MaskingFormatter(logging.Formatter):
    """Keeps credentials of URLs out of the log, those in the messages and tracebacks of libraries too."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


class _RankFile(logging.FileHandler):
    """Adds to a file that is ours, not to what a link in its place leads to. Says nothing of what it cannot write: a full disk
    ends no run, nor is it told with a traceback for every line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.handleError = lambda record: None

    def _open(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(open_to_append(Path(self.baseFilename)), encoding="utf-8", write_through=True)


class _ConsoleHandler(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self.setFormatter(_MaskingFormatter())
        self._show = show
        self.addFilter(lambda record: record.levelno >= logging.ERROR or record.name.split(".", 1)[0] in _OURS)
        self.addFilter(lambda record: not getattr(record, "file_only", False))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            self._show(text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}")
        except Exception:
            self.handleError(record)


def _writes_to_console(handler: logging.Handler) -> bool:
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, logging.StreamHandler) and handler.stream in streams
