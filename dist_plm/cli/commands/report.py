"""Prints what a run did, or compares several: `python launch/report.py runs/quickstart [more runs]`."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED, UserError
from dist_plm.monitor.formatting import ASCII_RAMP, UNICODE_RAMP
from dist_plm.monitor.report import load_run, render_report


def execute(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Prints what a run did: loss, held-out perplexity, speed and the course of the loss. "
        "With several runs, shows them side by side with the settings in which they differ.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="a run directory, e.g. runs/quickstart")
    options = parser.parse_args(arguments)
    try:
        text = render_report([load_run(path) for path in options.runs], ramp=_ramp(sys.stdout.encoding))
    except UserError as refusal:
        print(refusal, file=sys.stderr)
        return EXIT_REFUSED
    print(text)
    return EXIT_FINISHED


def _ramp(encoding: str) -> str:
    """Blocks where the terminal can show them."""
    try:
        UNICODE_RAMP.encode(encoding)
    except UnicodeEncodeError:
        return ASCII_RAMP
    return UNICODE_RAMP


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # what only prints ends quietly under `… | head`
    sys.exit(execute(sys.argv[1:]))


if __name__ == "__main__":
    main()
