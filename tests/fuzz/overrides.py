"""Overrides of any setting with any value."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from dist_plm.config.suggest import setting_names
from dist_plm.spec.prepare.schema import PrepareConfig
from dist_plm.spec.schema import PretrainConfig, SubmissionConfig
from tests.fuzz import commands
from tests.fuzz.case import Case
from tests.fuzz.mutate import NUMBERS, TEXTS, mutate_bytes, odd_value
from tests.fuzz.seeds import Seeds

#: Values that many a setting may have.
PLAUSIBLE = (
    "1",
    "2",
    "4",
    "0.5",
    "1000000",
    "true",
    "false",
    "null",
    "adamw",
    "lamb",
    "bert",
    "mlm",
    "bf16",
    "auto",
    "x",
    "[]",
)
#: Values in Hydra's grammar, and in YAML.
GRAMMAR = (
    "null",
    "true",
    "[",
    "{a: 1}",
    "[1,2]",
    "${train.steps}",
    "${x}",
    "${oc.env:HOME}",
    "1,2",
    "",
    "???",
    "range(9)",
)


def settings(seeds: Seeds, rng: Random, place: Path) -> Case:
    """Overrides of any setting with any value, for one of the commands that check them."""
    kind, command, base = rng.choice(
        (
            (PretrainConfig, commands.check_run, ["experiment=quickstart"]),
            (PrepareConfig, commands.check_prepare, ["data.sources=[{path: a}]", "data.out=b"]),
            (SubmissionConfig, _submit, ["cluster=example_cpu", "experiment=quickstart", "nodes=1"]),
        )
    )
    names = setting_names(kind)
    overrides = [*base, *(_override(names, rng) for _ in range(rng.choice((1, 1, 2, 3))))]
    return Case(lambda: _without_telling(command, overrides), shlex.join(overrides))


def _without_telling(command: Callable[..., int], overrides: Sequence[str]) -> int:
    """The password of `mutate.TEXTS` is shown nowhere."""
    code = command(*overrides)
    assert "hunter2" not in _printed("stdout") + _printed("stderr"), "a password was shown"
    return code


def _printed(name: str) -> str:
    sys.stdout.flush()
    sys.stderr.flush()
    return Path(name).read_text(errors="replace")


def _submit(*overrides: str) -> int:
    code = commands.submit_dry(*overrides)
    if code == 0:
        script = _printed("stdout")
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        setup = re.search(r"^set \+u\n(.*)^set -u$", script, re.M | re.S)
        lines = script.replace(setup[0], "").splitlines() if setup else script.splitlines()
        assert not any("INJECTED" in line and not line.startswith("#") and "'" not in line for line in lines), script
    return code


def _override(names: list[str], rng: Random) -> str:
    name = rng.choice(names).replace("[0]", rng.choice(("", ".0", ".x", "[0]")))
    name = rng.choice(("", "", "", "", "", "+", "++", "~")) + name
    if rng.random() < 0.05:
        return mutate_bytes(name.encode(), rng).decode("utf-8", "surrogateescape")
    if rng.random() < 0.5:
        return f"{name}={rng.choice(PLAUSIBLE)}"
    way = rng.randrange(5)
    if way == 0:
        value = rng.choice(NUMBERS)
        text = str(value)
    elif way == 1:
        text = f"'{rng.choice((*TEXTS, 'a;INJECTED', '$(INJECTED)', 'a`INJECTED`'))}'"
    elif way == 2:
        text = _hydra(odd_value(rng))
    elif way == 3:
        text = rng.choice(GRAMMAR)
    else:
        text = "9" * rng.choice((30, 400, 5000))
    return f"{name}={text}"


def _hydra(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name or 'x'}: {_hydra(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_hydra, value))}]"
    return json.dumps(value)
