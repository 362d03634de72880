"""Run directories that commands look at, and files that may not be read."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.fuzz import child, commands
from tests.fuzz.case import Case
from tests.fuzz.mutate import mutate_json
from tests.fuzz.seeds import Seeds

_STEPS = 8
#: As a GPU of the table would take for a step.
_SECONDS = 0.0063


def shown(seeds: Seeds, rng: Random, place: Path, broken: Callable[[Path, bytes, Random], bytes]) -> Case:
    """A run directory of which one file is broken, for what shows runs or learns from them."""
    run = place / "run"
    shutil.copytree(seeds.run, run)
    _as_longer(run)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size and _is_read(path))
    path = rng.choice(files)
    data = path.read_bytes()
    way = rng.random()
    if way < 0.05:
        path.unlink()
        path.mkdir()
    elif way < 0.1:
        path.unlink()
        os.mkfifo(path)
    elif path.suffix == ".jsonl":
        lines = data.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        lines[at] = mutate_json(lines[at], rng).rstrip(b"\n") + b"\n"
        path.write_bytes(b"".join(lines))
    else:
        path.write_bytes(broken(path, data, rng))
    command = rng.choice(list(_LOOKS))
    return Case(lambda: _LOOKS[command](seeds), f"{command} {path.relative_to(run)}")


def _is_read(path: Path) -> bool:
    return "checkpoints" not in path.parts or path.name in ("latest", "checkpoint.json")


def _as_longer(run: Path) -> None:
    """Gives it as many records as a calibration wants, and what is shown beside them."""
    (line, *_) = (run / "metrics.jsonl").read_bytes().splitlines()
    records = [{**json.loads(line), "step": step, "step_seconds": _SECONDS} for step in range(1, _STEPS + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (run / "predictions").mkdir(exist_ok=True)
    (run / "predictions" / "step.jsonl").write_text('{"text": "a", "answer": "b", "score": 0.5}\n' * 3)


_LOOKS: dict[str, Callable[[Seeds], int]] = {
    "report": lambda seeds: commands.show_report("run", str(seeds.run)),
    "page": lambda seeds: commands.show_report("run", "html=page.html"),
    "watch": lambda seeds: commands.watch_once("run"),
    "serve": lambda seeds: commands.serve_once("run"),
    "samples": lambda seeds: commands.show_samples("run=run", "step=2"),
    "calibrate": lambda seeds: commands.plan(*seeds.settings, "cluster.gpu=a100", "calibrate=run"),
}


def closed(seeds: Seeds, rng: Random, place: Path) -> Case:
    """A file or folder that this user may not read, for whatever reads it."""
    for name in ("run", "store", "model"):
        shutil.copytree(getattr(seeds, name), place / name)
    shutil.copy(place / "store" / "tokenizer.json", place / "tokenizer.json")
    (place / "texts").mkdir()
    (place / "texts" / "texts.jsonl").write_bytes(seeds.sources["jsonl"])
    command = rng.choice(list(_READS))
    path = rng.choice(sorted([place / name, *(place / name).rglob("*")]) if (name := _READS[command][0]) else [place])
    return Case(lambda: _without_it(path, lambda: _READS[command][1](seeds)), f"{command} {path.relative_to(place)}")


def _without_it(path: Path, act: Callable[[], int]) -> int:
    with _closed(path):
        return act()


@contextmanager
def _closed(path: Path) -> Iterator[None]:
    mode = path.stat().st_mode
    path.chmod(0)
    child.give_up_root()
    try:
        yield
    finally:
        path.chmod(mode)


_SOURCES = ["data.sources=[{path: 'texts/*.jsonl'}]", "data.out=out", "data.split=[0.8,0.1,0.1]", "tokenizer=file"]
#: What is closed, and what reads it.
_READS: dict[str, tuple[str, Callable[[Seeds], int]]] = {
    **{f"{name} run": ("run", look) for name, look in _LOOKS.items()},
    "inspect run": ("run", lambda seeds: commands.convert_to("inspect=run")),
    "export run": ("run", lambda seeds: commands.convert_to("from=run", "to=out", "format=hf")),
    "resume run": ("run", lambda seeds: commands.check_run(*seeds.settings, "train.resume=./run")),
    "go on with run": ("run", lambda seeds: commands.check_run(*seeds.settings, "run.dir=run")),
    "frozen run": ("run", lambda seeds: commands.check_run("--frozen", "run/run.yaml")),
    "import model": ("model", lambda seeds: commands.convert_to("from=model", "to=out")),
    "begin model": ("model", lambda seeds: commands.check_run(*seeds.settings, "model.init_from=./model")),
    "train store": ("store", lambda seeds: commands.check_run(*seeds.settings, "data.path=store")),
    "verify store": ("store", lambda seeds: commands.verify("store")),
    "texts": ("texts", lambda seeds: commands.prepare(*_SOURCES, "tokenizer.path=tokenizer.json")),
    "tokenizer": ("tokenizer.json", lambda seeds: commands.prepare(*_SOURCES, "tokenizer.path=tokenizer.json")),
}
