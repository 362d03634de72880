"""run.yaml: the resolved configuration of a run, written beside what the run makes.

Its paths stand as they were given. `started_in` above them says from where the relative ones were seen; see
config/stored_paths.py.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dist_plm.config.credentials import read_back
from dist_plm.config.decode import decode, encode, flatten, show
from dist_plm.core.errors import ConfigError, reason_of
from dist_plm.core.files import atomic_writer
from dist_plm.core.parsing import load_yaml, read_text

T = TypeVar("T")

_HEADER = "# The resolved configuration of this run, as it started. Changing it changes nothing.\n"
#: Beside the settings: the working directory of what wrote them.
STARTED_IN = "started_in"
#: Stands for a key that one of two configurations does not have.
_ABSENT: Any = object()


def text(config: Any) -> str:
    """Builds the text that `write` writes."""
    return _HEADER + to_yaml({**_started_in(), **encode(config)})


def _started_in() -> dict[str, str]:
    """Nothing where the name of the directory is no text, which YAML cannot hold."""
    here = os.getcwd()
    try:
        here.encode()
    except UnicodeEncodeError:
        return {}
    return {STARTED_IN: here}


def write(config: Any, path: str | os.PathLike[str]) -> None:
    """Writes a configuration whole or not at all: under a temporary name, synced, then renamed. Makes the directory."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(path, temporary=f".{path.name}.{os.getpid()}.tmp") as file:
        file.write(text(config).encode())


def mapping_of(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The settings that `write` wrote, as they stand there.

    Raises:
        ConfigError: where the file is missing, or is no YAML mapping.
    """
    try:
        mapping = load_yaml(read_text(path), str(path))
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path} cannot be read: {reason_of(error, path)}"]) from error
    if not isinstance(mapping, Mapping):
        raise ConfigError([f"{path} holds no configuration: a mapping of settings is needed"])
    return mapping


def read(path: str | os.PathLike[str], cls: type[T]) -> T:
    """The configuration that `write` wrote.

    Raises:
        ConfigError: where the file is missing, is no YAML mapping, or does not fit the schema of this version.
    """
    return decoded(mapping_of(path), path, cls)


def decoded(mapping: Mapping[str, Any], path: str | os.PathLike[str], cls: type[T]) -> T:
    """Makes a configuration of what `mapping_of` read at `path`.

    Raises:
        ConfigError: it does not fit the schema of this version.
    """
    settings = {name: value for name, value in mapping.items() if name != STARTED_IN}
    try:
        return decode(cls, read_back(settings), of_before=True)
    except KeyError as error:
        raise ConfigError([f"{path} refers to {error.args[0]} of the environment, which is not set here"]) from error
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from error


def diff(a: Any, b: Any) -> list[str]:
    """Lists what changed from `a` to `b`, one "key: old -> new" a setting, in the schema's order."""
    return changes(encode(a), encode(b))


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """`diff` of encoded configurations, which may be of different versions of the schema."""
    old, new = flatten(a), flatten(b)
    keys = [key for key in (*old, *(k for k in new if k not in old)) if key != STARTED_IN]
    changed = [k for k in keys if old.get(k, _ABSENT) != new.get(k, _ABSENT)]
    return [f"{k}: {_shown(old, k)} -> {_shown(new, k)}" for k in changed]


def to_yaml(mapping: Mapping[str, Any]) -> str:
    """Readable YAML: keys in their order, short lists on one line."""
    return yaml.dump(dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        flat = not any(isinstance(item, Mapping) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)


def _shown(flat: dict[str, Any], key: str) -> str:
    return show(flat[key]) if key in flat else "absent"
