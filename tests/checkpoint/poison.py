"""Checkpoints whose numbers are not finite, as a program without a look at them would have written."""

import json
import math
import struct
from pathlib import Path

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.io.outline import HEAD_BYTES, values_at
from dist_plm.checkpoint.open_checkpoint import Checkpoint, look_at


def poison(checkpoint: Path, name: str, value: float = math.nan) -> None:
    """Puts `value` in place of the first number of the tensor `name`, with all checksums made anew."""
    found: Checkpoint = look_at(str(checkpoint))[0]
    reader = found.storage.reader(found.name)
    metadata = reader.read_metadata()
    info = next(info for index, info in metadata.storage_data.items() if index.fqn == name)
    path = checkpoint / info.relative_path
    content = bytearray(path.read_bytes())
    begin = values_at(bytes(content[info.offset : info.offset + HEAD_BYTES]))
    assert begin is not None
    struct.pack_into("<f", content, info.offset + begin, value)
    path.write_bytes(content)
    rewrite(checkpoint, files={path.name: {"bytes": len(content), "checksum": state_file.checksum(bytes(content))}})


def rewrite(checkpoint: Path, **changes: object) -> None:
    """Changes fields of checkpoint.json, which gets a checksum that fits; entries of `files` are added to those there."""
    path = checkpoint / state_file.NAME
    content = json.loads(path.read_text())
    files = {**content["files"], **changes.pop("files", {})}  # pyright: ignore[reportGeneralTypeIssues]
    forge(checkpoint, {**content, "files": files, **changes})


def forge(checkpoint: Path, content: object) -> None:
    """Writes any JSON as checkpoint.json, with a checksum that fits where it is a mapping."""
    blank = {**content, "checksum": "0" * 32} if isinstance(content, dict) else content
    text = json.dumps(blank, indent=1, ensure_ascii=False)
    text = text.replace("0" * 32, state_file.checksum(text.encode()), 1)
    (checkpoint / state_file.NAME).write_text(text + "\n")
