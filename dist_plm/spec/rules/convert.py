"""Checks that launch/convert.py has one thing to do, and all it needs for it."""

from collections.abc import Callable, Iterator

from dist_plm.config.decode import show
from dist_plm.spec.rules.paths import Access, path_problems
from dist_plm.spec.schema_convert import ConvertConfig


def _task(config: ConvertConfig) -> Iterator[str]:
    given = {"inspect": config.inspect, "from": config.from_, "to": config.to}
    blank = [name for name, value in given.items() if value is not None and not value.strip()]
    if blank:
        yield f"{' and '.join(blank)} is empty: give a path"
    elif config.inspect is not None:
        if config.from_ is not None or config.to is not None:
            yield "inspect describes and from= to= converts: give one of the two"
    elif config.from_ is None and config.to is None:
        yield (
            "there is nothing to do: describe a checkpoint or a run, as in inspect=runs/quickstart, or convert one, as in "
            "from=runs/quickstart to=out format=hf"
        )
    elif config.from_ is None:
        yield "from is missing: give the path of what is to be converted to the directory that to= names"
    elif config.to is None:
        yield "to is missing: name the directory that is to be made"


def _unread(config: ConvertConfig) -> Iterator[str]:
    default = ConvertConfig()
    of_imports, of_exports = ("vocab_size", "kv_heads", "weights_only", "hf_config"), ("dtype", "shard_gb")
    of_written = ("verify",)
    of_vectors = ("pooling", "normalize")
    unread = {
        "hf": (*of_imports, *of_vectors),
        "peft": (*of_imports, *of_exports, *of_vectors),
        "canonical": (*of_exports, *of_written, *of_vectors),
        "sentence_transformers": of_imports,
    }
    for name in unread[config.format]:
        value, usual = getattr(config, name), getattr(default, name)
        if value != usual:
            yield f"{name} = {show(value)} has no effect with format = {config.format!r}: leave it at {name}={show(usual)}"


def _paths(config: ConvertConfig) -> Iterator[str]:
    written: Access = "write" if config.format == "canonical" else "none"
    yield from path_problems("inspect", _given(config.inspect), url="read")
    yield from path_problems("from", _given(config.from_), url="read")
    yield from path_problems("to", _given(config.to), url=written, made=True)
    yield from path_problems("hf_config", config.hf_config)


def _given(path: str | None) -> str | None:
    """None for a blank one, which `_task` speaks of."""
    return path if path is not None and path.strip() else None


CONVERT_RULES: tuple[Callable[[ConvertConfig], Iterator[str]], ...] = (_task, _paths, _unread)
