"""Asks the rules what works with what on a CPU: engine x axis of the process grid x precision x optimizer."""

import functools
import itertools
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from dist_plm.config.decode import decode
from dist_plm.core.errors import ConfigError
from dist_plm.spec.engines import ENGINES
from dist_plm.spec.optimizers import OPTIMIZERS
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PrecisionConfig, PretrainConfig

#: The test that trains every combination that is not refused.
TEST = "tests/ranks/test_support.py"

#: Settings of `parallel` by the axis that they turn on, on two ranks.
AXES: dict[str, dict[str, Any]] = {
    "data": {},
    "tensor": {"tensor": 2},
    "tensor + sequence": {"tensor": 2, "sequence_parallel": True},
    "pipeline": {"pipeline": 2},
    "interleaved pipeline": {"pipeline": 2, "virtual_pipeline": 2},
    "context": {"context": 2},
    "expert": {"expert": 2},
}


def _choices(section: type, field: str) -> tuple[str, ...]:
    hint = get_type_hints(section)[field]
    assert hint.__origin__ is Literal
    return get_args(hint)


PRECISIONS = _choices(PrecisionConfig, "name")
ZERO_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class Combination:
    """One cell of the table."""

    engine: str
    zero_stage: int
    axis: str
    precision: str
    optimizer: str

    @property
    def refusal(self) -> str | None:
        """The rules' sentence, None where it works."""
        return _refusal(self, "auto")

    @property
    def on_cpu(self) -> str | None:
        """The same for a CPU alone."""
        return _refusal(self, "cpu")

    @property
    def name(self) -> str:
        """As the test is parametrised with it."""
        return f"{self.engine}-{self.zero_stage}-{self.axis}-{self.precision}-{self.optimizer}"

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        """The settings that make it, by group."""
        return {
            "engine": {"name": self.engine, "zero_stage": self.zero_stage},
            "parallel": AXES[self.axis],
            "precision": {"name": self.precision},
            "optim": {"name": self.optimizer},
        }


@functools.cache
def combinations() -> tuple[Combination, ...]:
    """Every combination, in the order of the table."""
    places = itertools.product(ENGINES, ZERO_STAGES, AXES, PRECISIONS, OPTIMIZERS)
    return tuple(Combination(*place) for place in places)


def render() -> str:
    """The table in Markdown: in each cell the optimizers that work there, and a footnote for each refusal."""
    notes: dict[str, int] = {}
    lines = [
        f"| engine | ZeRO | axis | {' | '.join(PRECISIONS)} |",
        f"|---|---|---|{'---|' * len(PRECISIONS)}",
    ]
    rows: dict[tuple[str, int, str], dict[str, list[Combination]]] = {}
    for cell in combinations():
        row = rows.setdefault((cell.engine, cell.zero_stage, cell.axis), {})
        row.setdefault(cell.precision, []).append(cell)
    for (engine, stage, axis), by_precision in rows.items():
        cells = [_cell(by_precision[precision], notes) for precision in PRECISIONS]
        lines.append(f"| {engine} | {stage} | {axis} | {' | '.join(cells)} |")
    footnotes = [f"{number}. {sentence}" for sentence, number in notes.items()]
    head = (
        f"Named optimizers are accepted, and `{TEST}` trains each combination: one of every kind in `make test`, all in "
        "`make test-slow`. The rest is refused for the reason below."
    )
    return "\n".join([head, "", *lines, "", *footnotes, ""])


def _cell(found: list[Combination], notes: dict[str, int]) -> str:
    works = [cell.optimizer for cell in found if cell.refusal is None and cell.on_cpu is None]
    on_gpus: dict[str, list[str]] = {}
    refused: dict[str, list[str]] = {}
    for cell in found:
        if cell.refusal is not None:
            refused.setdefault(cell.refusal, []).append(cell.optimizer)
        elif cell.on_cpu is not None:
            on_gpus.setdefault(cell.on_cpu, []).append(cell.optimizer)
    parts = [", ".join(works)] if works else []
    for sentence, names in on_gpus.items():
        number = notes.setdefault(sentence, len(notes) + 1)
        parts.append(f"{', '.join(names)}: on a GPU ({number})")
    for sentence, names in refused.items():
        number = notes.setdefault(sentence, len(notes) + 1)
        who = "" if len(names) == len(found) else f"{', '.join(names)}: "
        parts.append(f"{who}refused ({number})")
    return "; ".join(parts)


@functools.cache
def _refusal(cell: Combination, device: str) -> str | None:
    base: dict[str, dict[str, Any]] = {
        "run": {"name": "support"},
        "model": {"family": "gpt", "layers": 4, "hidden": 64, "heads": 4, "vocab_size": 256},
        "objective": {"name": "causal"},
        "data": {"path": "store", "sequence_length": 32},
        "optim": {"lr": 1e-3},
        "schedule": {"name": "constant"},
        "train": {"steps": 1, "global_batch": 8, "micro_batch": 1},
        "cluster": {"device": device},
    }
    values = base | {group: base.get(group, {}) | dict(settings) for group, settings in cell.overrides.items()}
    try:
        finalize(decode(PretrainConfig, values), world_size=2, vocab_size=None)
    except ConfigError as error:
        return error.problems[0]
    return None
