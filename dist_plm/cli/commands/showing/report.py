"""Prints what a run did, or compares several; writes a page of their curves with `html=FILE`.

python launch/report.py runs/quickstart
python launch/report.py runs/first runs/second html=report.html
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dist_plm.cli.run_words import say, split_settings
from dist_plm.core.errors import EXIT_FINISHED
from dist_plm.core.streams import code_of, leave, open_standard_streams, tell, visible
from dist_plm.monitor.formatting import ASCII_RAMP, UNICODE_RAMP
from dist_plm.monitor.report import load_run, render_report
from dist_plm.monitor.report_page.build import build_page, check_place, write_page


def execute(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="Prints what a run did: loss, held-out perplexity, speed and the course of the loss. "
        "With several runs, shows them side by side with the settings in which they differ. "
        "html=FILE writes a page of curves, settings and samples as well, which needs no network.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="a run directory, e.g. runs/quickstart")
    parser.add_argument("html", nargs="?", metavar="html=FILE", help="where to write the page")
    words = parser.parse_args(arguments).runs
    return code_of(lambda: _report(words), say)


def _report(words: Sequence[str]) -> int:
    settings, paths = split_settings(words, ("html",))
    page = Path(settings["html"]) if "html" in settings else None
    if page is not None:
        check_place(page)
    runs = [load_run(path) for path in paths]
    text = render_report(runs, ramp=_ramp(sys.stdout.encoding))
    if page is not None:
        # Imported here, as it reads data, which the text does without.
        from dist_plm.tasks.samples.cut_samples import CutSamples

        write_page(page, build_page(runs, CutSamples()))
        text += f"\n\npage: {page}"
    tell(visible(text))
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
    open_standard_streams()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # what only prints ends quietly under `… | head`
    leave(execute(sys.argv[1:]))


if __name__ == "__main__":
    main()
