"""Asks the rules which models learn from which objectives on which axes of the process grid."""

from typing import Any

from dist_plm.config.decode import decode
from dist_plm.core.errors import ConfigError
from dist_plm.spec.families import FAMILIES
from dist_plm.spec.objectives import objectives_of
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from tools.support_tables import AXES

#: The tests that train every family on every axis that is not refused.
TESTS = ("tests/ranks/test_grids.py", "tests/ranks/test_encoders.py", "tests/ranks/test_context_parallel.py")


def render() -> str:
    """The table in Markdown: a row for each family, and a footnote for each refusal."""
    notes: dict[str, int] = {}
    lines = [f"| family | objectives | {' | '.join(AXES)} |", f"|---|---|{'---|' * len(AXES)}"]
    for family, spec in FAMILIES.items():
        cells = []
        for axis in AXES:
            sentence = refusal(family, axis)
            cells.append("yes" if sentence is None else f"no ({notes.setdefault(sentence, len(notes) + 1)})")
        lines.append(f"| {family} | {', '.join(objectives_of(spec))} | {' | '.join(cells)} |")
    footnotes = [f"{number}. {sentence}" for sentence, number in notes.items()]
    head = f"Losses, gradient norms and weights are those of one rank: `{'`, `'.join(TESTS)}`."
    return "\n".join([head, "", *lines, "", *footnotes, ""])


def refusal(family: str, axis: str) -> str | None:
    """The rules' sentence about a small model of `family` on `axis`; None where it works."""
    values: dict[str, dict[str, Any]] = {
        "run": {"name": "support"},
        "model": {"family": family, "layers": 4, "hidden": 128, "heads": 8, "vocab_size": 256},
        "objective": {"name": objectives_of(FAMILIES[family])[0]},
        "data": {"path": "store", "sequence_length": 32},
        "optim": {"name": "adamw", "lr": 1e-3},
        "schedule": {"name": "constant"},
        "parallel": AXES[axis],
        "engine": {"name": "megatron"},
        "precision": {"name": "fp32"},
        "train": {"steps": 1, "global_batch": 8, "micro_batch": 1},
    }
    try:
        finalize(decode(PretrainConfig, values), world_size=2, vocab_size=None)
    except ConfigError as error:
        return error.problems[0]
    return None
