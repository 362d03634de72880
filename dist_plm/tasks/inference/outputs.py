"""Writes results to files for programs: one of JSON, or a line of it for each row."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dist_plm.config.read_files import check_not_read
from dist_plm.core.errors import DataError, reason_of
from dist_plm.core.files import check_output, output_writer
from dist_plm.spec.inference.schema import InferenceConfig


def check_out(out: str | None, config: InferenceConfig, name: str = "out") -> None:
    """Sees to it, before anything is measured, that the file of setting `name` can be written.

    Raises:
        ConfigError: another setting of `config` names it too, as what is read.
        DataError: its folder is not there, it is a folder itself, or a link, a device or a pipe.
    """
    if out is None:
        return
    path = Path(out)
    if path.is_dir():
        raise DataError(f"{name} = {out} is a directory: name a file in it")
    if not path.parent.is_dir():
        raise DataError(f"{name} = {out}: there is no directory {path.parent}: make it, or name another file")
    try:
        check_output(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{name} = {out} cannot be written: {reason_of(error, out)}") from None
    check_not_read(name, out, config)


def write_json(out: str, content: Mapping[str, Any]) -> None:
    """Writes one object.

    Raises:
        DataError: the file cannot be written.
    """
    _write(out, json.dumps(content, indent=2, ensure_ascii=False))


def write_lines(out: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes an object a line.

    Raises:
        DataError: the file cannot be written.
    """
    _write(out, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def _write(out: str, text: str) -> None:
    try:
        with output_writer(Path(out)) as file:
            file.write(text.encode(errors="replace") + b"\n")
    except OSError as error:
        raise DataError(f"{out} cannot be written: {reason_of(error, out)}") from None
