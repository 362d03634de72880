"""Tells runs from settings such as `html=report.html` for the commands that look at runs, and says what they refuse."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dist_plm.config.credentials import mask
from dist_plm.core.errors import UserError
from dist_plm.core.streams import tell, visible


def split_settings(words: Sequence[str], known: Sequence[str]) -> tuple[dict[str, str], list[Path]]:
    """Tells the settings among words from the run directories.

    Raises:
        UserError: a setting is not among the `known`, has no value or is given twice, or no run is named.
    """
    settings: dict[str, str] = {}
    paths = []
    for word in words:
        name, is_setting, value = word.partition("=")
        if not is_setting or not name.isidentifier() or (name not in known and Path(word).is_dir()):
            paths.append(Path(word))
        elif name not in known:
            raise UserError(f"{word}: {name} is no setting here; write {_listed(known)}, or ./{word} for a directory")
        elif not value or name in settings:
            raise UserError(f"{name}= {'is given twice' if name in settings else f'needs a value, as in {name}=VALUE'}")
        else:
            settings[name] = value
    if not paths:
        raise UserError("name a run directory such as runs/quickstart")
    return settings, paths


def say(refusal: UserError) -> None:
    """Tells a person of a refusal."""
    tell(visible(mask(str(refusal))), sys.stderr)


def _listed(known: Sequence[str]) -> str:
    return " or ".join(f"{name}=…" for name in known)
