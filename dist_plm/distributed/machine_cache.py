"""Keeps what was measured of a machine in the user's cache directory: a file of JSON for each key."""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dist_plm.core.errors import reason_of
from dist_plm.core.files import atomic_writer

log = logging.getLogger(__name__)


def user_cache_dir() -> Path:
    """Finds where the user keeps caches: $XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "dist_plm"


def read(folder: Path, kind: str, key: str) -> dict[str, Any] | None:
    """Reads what was measured under a key, not yet looked at; None where nothing was, or what is there cannot be read."""
    path = _path(folder, kind, key)
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.info("measuring again, the cache %s is unreadable: %s", path, reason_of(error, path))
        return None
    return entry if isinstance(entry, dict) and entry.get("key") == key else None


def write(folder: Path, kind: str, key: str, values: Mapping[str, Any]) -> None:
    """Keeps what was measured under a key, where that can be."""
    path = _path(folder, kind, key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not synced: a cache that a power cut spoils is measured again.
        with atomic_writer(path, temporary=f"{path.stem}.{os.getpid()}.tmp", sync=False) as file:
            file.write(json.dumps({"key": key, **values}).encode())
    except OSError as error:
        log.info("what was measured is not cached: %s", reason_of(error))


def cpu_model() -> str:
    """Reads what tells one chip from another: the name alone does not, as virtual machines often cut it short."""
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "CPU implementer", "CPU part")
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    return " ".join(fields[name] for name in wanted if name in fields) or platform.machine()


def _path(folder: Path, kind: str, key: str) -> Path:
    return folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
