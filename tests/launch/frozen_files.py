"""Settings of launch/submit.py as the file that --frozen reads."""

from pathlib import Path

import pytest

from dist_plm.cli.commands.submit import execute
from dist_plm.core.errors import EXIT_FINISHED


def frozen_words(capsys: pytest.CaptureFixture[str], settings: list[str], path: Path) -> list[str]:
    """Writes the settings into a file, and gives the words that name it."""
    assert execute([*settings, "--cfg", "job"]) == EXIT_FINISHED
    path.write_text(capsys.readouterr().out)
    return ["--frozen", str(path)]


def script_of(capsys: pytest.CaptureFixture[str], words: list[str]) -> list[str]:
    """Gives the lines of a dry run's script, without the settings that it was made from."""
    assert execute(words) == EXIT_FINISHED
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    return [line for line in lines if not line.startswith("# The settings, ")]
