"""What is broken, the command that reads it, and what must hold where the command takes it."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from random import Random

import yaml

from tests.fuzz import commands, row_areas, run_areas
from tests.fuzz.case import Area, Case
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_value
from tests.fuzz.overrides import settings
from tests.fuzz.seeds import Seeds

#: Values of YAML.
YAML = (
    "&a [*a]",
    "*a",
    "010",
    "1:30",
    "!!python/name:os.system",
    "[" * 3000,
    "9" * 5000,
    "!!binary aaaa",
    "2001-01-01",
    "<<: 1",
)


def frozen(seeds: Seeds, rng: Random, place: Path) -> Case:
    """A configuration that a job starts from."""
    text = (seeds.run / "run.yaml").read_text()
    changed = _broken_yaml(text, rng)
    (place / "frozen.yaml").write_bytes(changed)
    return Case(lambda: commands.check_run("--frozen", "frozen.yaml"), "frozen.yaml")


def _broken_yaml(text: str, rng: Random) -> bytes:
    way = rng.randrange(4)
    if way == 0:
        return mutate_bytes(text.encode(), rng)
    if way == 1:
        lines = text.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        name, _, _ = lines[at].partition(":")
        lines[at] = f"{name}: {rng.choice(YAML)}\n"
        return "".join(lines).encode()
    changed = mutate_value(yaml.safe_load(text), rng)
    if way == 2:  # which YAML reads too, and which nests as deep as one likes
        return json.dumps(changed).encode()
    try:
        return yaml.safe_dump(changed, allow_unicode=True).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 400


def reports(seeds: Seeds, rng: Random, place: Path) -> Case:
    """A run directory whose metrics or settings are broken."""
    run = place / "run"
    run.mkdir()
    lines = (seeds.run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(lines[at], rng).rstrip(b"\n") + b"\n"
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    (run / "run.yaml").write_bytes(_broken_yaml((seeds.run / "run.yaml").read_text(), rng))
    others = [str(seeds.run)] if rng.random() < 0.5 else []
    return Case(lambda: commands.show_report("run", *others), "report run")


def sources(seeds: Seeds, rng: Random, place: Path) -> Case:
    """Files of text in every format."""
    kind = rng.choice(list(seeds.sources))
    data = seeds.sources[kind]
    if kind == "jsonl" and rng.random() < 0.5:
        lines = data.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        lines[at] = mutate_json(lines[at], rng) + b"\n"
        data = b"".join(lines)
    else:
        data = mutate_bytes(data, rng)
    (place / f"texts.{kind}").write_bytes(data)
    arguments = [f"data.sources=[{{path: texts.{kind}}}]", "data.out=out", f"data.max_rejected={rng.choice((0, 1))}"]
    arguments += ["data.split=[0.8,0.1,0.1]", "tokenizer=file", f"tokenizer.path={seeds.store}/tokenizer.json"]
    return Case(lambda: _prepared(*arguments), f"texts.{kind}")


def _prepared(*arguments: str) -> int:
    """A store that is made is as its train_state says, and holds as many documents as could be read."""
    code = commands.prepare(*arguments)
    if code == 0:
        assert commands.verify("out") == 0
    return code


def tokenizers(seeds: Seeds, rng: Random, place: Path) -> Case:
    """A tokenizer's directory, of which one file is broken."""
    directory = place / "tokenizer"
    directory.mkdir()
    names = ["tokenizer.json", "tokenizer_config.json"]
    for name in names:
        if (seeds.store / name).exists():
            shutil.copy(seeds.store / name, directory / name)
    if rng.random() < 0.3:
        _as_vocabulary(directory)
    _break_one(directory, rng)
    (place / "texts.jsonl").write_bytes(seeds.sources["jsonl"])
    arguments = ["data.sources=[{path: texts.jsonl}]", "data.out=out", "data.split=[0.8,0.1,0.1]"]
    path = rng.choice(["tokenizer", *(f"tokenizer/{file.name}" for file in directory.iterdir())])
    return Case(lambda: _prepared(*arguments, "tokenizer=file", f"tokenizer.path={path}"), path)


def _as_vocabulary(directory: Path) -> None:
    """The same as vocab.json and merges.txt."""
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges))


def stores(seeds: Seeds, rng: Random, place: Path) -> Case:
    """A prepared store, of which one file is broken."""
    store = place / "store"
    shutil.copytree(seeds.store, store)
    broken = _break_one(store, rng)
    arguments = [*seeds.settings, "data.path=store"]
    if rng.random() < 0.4:
        return Case(lambda: _verified("store"), f"verify {broken}")
    return Case(lambda: commands.check_run(*arguments), f"check {broken}")


def _verified(store: str) -> int:
    code = commands.verify(store)
    assert code != 0, "a file was changed, and all are as they were written"
    return code


def checkpoints(seeds: Seeds, rng: Random, place: Path) -> Case:
    """A run's checkpoints, of which one file is broken."""
    run = place / "run"
    shutil.copytree(seeds.run, run)
    broken = _break_one(run / "checkpoints", rng)
    command = rng.choice(("inspect", "export", "resume", "begin"))
    runs = {
        "inspect": lambda: commands.convert_to("inspect=run"),
        "export": lambda: commands.convert_to("from=run", "to=out", "format=hf"),
        "resume": lambda: commands.check_run(*seeds.settings, "train.resume=./run"),
        "begin": lambda: commands.check_run(*seeds.settings, "train.init_from=./run"),
    }
    return Case(runs[command], f"{command} {broken}")


def models(seeds: Seeds, rng: Random, place: Path) -> Case:
    """A directory of Hugging Face, of which one file is broken."""
    shutil.copytree(seeds.model, place / "model")
    broken = _break_one(place / "model", rng)
    command = rng.choice(("import", "begin", "sizes"))
    runs = {
        "import": lambda: commands.convert_to("from=model", "to=out"),
        "begin": lambda: commands.check_run(*seeds.settings, "model.init_from=./model"),
        "sizes": lambda: commands.check_run(*seeds.settings, "model=from_hf", "model.init_from=./model"),
    }
    return Case(runs[command], f"{command} {broken}")


def _break_one(directory: Path, rng: Random) -> str:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)
    path = rng.choice(files)
    data = path.read_bytes()
    way = rng.random()
    if way < 0.05:
        path.unlink()
        path.mkdir()
    elif way < 0.1:
        path.write_bytes(b"")
    else:
        changed = data
        while changed == data:
            changed = _broken(path, data, rng)
        path.write_bytes(changed)
    return str(path.relative_to(directory))


def _broken(path: Path, data: bytes, rng: Random) -> bytes:
    if path.suffix == ".json":
        return mutate_json(data, rng)
    if path.suffix == ".yaml":
        return _broken_yaml(data.decode(), rng)
    return mutate_bytes(data, rng)


def runs(seeds: Seeds, rng: Random, place: Path) -> Case:
    """A run directory of which one file is broken, for what shows runs or learns from them."""
    return run_areas.shown(seeds, rng, place, _broken)


_ALL = (
    settings,
    frozen,
    reports,
    runs,
    sources,
    row_areas.rows,
    tokenizers,
    stores,
    checkpoints,
    models,
    run_areas.closed,
)
AREAS: dict[str, Area] = {area.__name__: area for area in _ALL}


def named(names: Iterable[str]) -> list[Area]:
    return [AREAS[name] for name in names] or list(AREAS.values())
