"""Every setting of launch/convert.py, as frozen dataclasses; see schema.py."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig:
    """What launch/convert.py does. `inspect` is the path or URL of a checkpoint, or of a run, to be described."""

    inspect: str | None = None
