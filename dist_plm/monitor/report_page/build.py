"""One self-contained HTML page of one run or several: its script, its style and its data are in it, and nothing is fetched.

What runs say (names, settings, samples) is data in a JSON element, which the script shows as text; the page's own policy lets
no other script run.
"""

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_plm.core.errors import UserError, reason_of
from dist_plm.core.files import output_writer
from dist_plm.core.regular import open_regular
from dist_plm.monitor.report import Run, comparison_rows, differing_settings
from dist_plm.monitor.report_page.packed_columns import MOST_VALUES
from dist_plm.monitor.report_page.run_facts import facts_of
from dist_plm.monitor.report_page.worst_samples import ReadSamples

_ASSETS = Path(__file__).parent / "assets"
#: In their order: each may use what those before it define.
_SCRIPTS = ("uplot/uPlot.iife.min.js", "columns.js", "curves.js", "tables.js", "charts.js", "live.js", "page.js")
_STYLES = ("uplot/uPlot.min.css", "page.css")
#: Begins each page that this program wrote: only such a file is replaced.
_MARK = "<!doctype html>\n<!-- written by dist_plm report -->\n"


def build_page(runs: Sequence[Run], read: ReadSamples | None = None) -> str:
    """Writes out the page.

    Args:
        read: reads samples that runs learned from; None: the page names the command that does.
    """
    facts = [facts_of(run, most_values=MOST_VALUES // len(runs), read=read) for run in runs]
    return page_of(facts, overview_of(runs), live=None)


def overview_of(runs: Sequence[Run]) -> dict[str, Any]:
    """The runs side by side: their summaries, and the settings in which they differ. Fit for JSON."""
    logged = [run for run in runs if run.records]
    names = [str(run.path) for run in logged]
    differing = differing_settings(runs) if len(runs) > 1 else []
    return {
        "summary": [["run", *names], *comparison_rows(logged)] if logged else [],
        "differing": [["setting", *(str(run.path) for run in runs)], *differing] if differing else [],
    }


def page_of(facts: Sequence[Mapping[str, Any]], overview: Mapping[str, Any], live: Mapping[str, Any] | None) -> str:
    """The page of what runs say.

    Args:
        live: where the page asks for what is new, and how often; None: it asks nobody.
    """
    script = "\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    style = "\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in _STYLES)
    names = [str(run["name"]) for run in facts]
    asked = "'self'" if live else "'none'"
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            f"connect-src {asked}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    data = {"runs": list(facts), "overview": overview, "live": live}
    parts = {
        "POLICY": html.escape(policy, quote=True),
        "TITLE": html.escape(", ".join(names)),
        "STYLE": style,
        "DATA": embedded(data),
        "SCRIPT": script,
    }
    template = (_ASSETS / "page.html").read_text(encoding="utf-8")
    before, *pieces = template.split("{{")  # each part once, so that none is looked for in another
    filled = [before]
    for piece in pieces:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return _MARK + "".join(filled)


def embedded(data: Any) -> str:
    """JSON that may stand inside an HTML element: no tag and no comment begins in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def write_page(path: Path, page: str) -> None:
    """Puts a page at `path`, whole or not at all, in place of an earlier one of this program alone.

    Raises:
        UserError: something else is there, or it cannot be written.
    """
    check_place(path)
    try:
        with output_writer(path) as file:
            file.write(page.encode(errors="replace"))
    except (OSError, ValueError) as error:
        raise UserError(f"html={path} cannot be written: {reason_of(error, path)}; name another file") from None


def check_place(path: Path) -> None:
    """Raises the UserError of `write_page` where it can be known before there is a page, and changes nothing."""
    try:
        if os.path.lexists(path):
            if path.is_symlink():
                raise UserError(f"html={path} is a link; name a file")
            with open_regular(path) as file:
                start = file.read(len(_MARK))
            if start and start != _MARK.encode():
                raise UserError(
                    f"html={path} is there already, and is no page of this program: move it away, or name another file"
                )
        elif not path.parent.is_dir():
            raise UserError(f"html={path}: there is no directory {path.parent}; make it, or name another file")
    except (OSError, ValueError) as error:
        raise UserError(f"html={path} cannot be written: {reason_of(error, path)}; name another file") from None


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
