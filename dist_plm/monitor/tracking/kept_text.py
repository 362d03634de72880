"""Reads what a tracker keeps of its run in a file of the run's directory."""

from pathlib import Path

from dist_plm.core.regular import read_regular


def kept_text(path: Path) -> str:
    """Gives the text that a file holds, without white space around it; empty where none can be read."""
    try:
        return read_regular(path).decode().strip()
    except (OSError, ValueError):
        return ""
