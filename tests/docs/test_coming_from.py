"""The tables of docs/coming_from.md and the suggestions of the program name the same settings."""

import re

import pytest

from dist_plm.cli.app import front
from dist_plm.spec.schema import PretrainConfig
from tests.docs.blocks import ROOT

#: Options that are no setting here, or whose name says too little alone.
OTHERWISE = {"resume_from_checkpoint", "enabled", "type", "data_path", "use_distributed_optimizer", "num_gpus"}
_OPTION = re.compile(r"--([a-z0-9_-]+)|(?<!=)\"([a-z_]+)\":?|^([a-z_0-9]+)(?==|$)")


def rows() -> list[tuple[str, list[str]]]:
    """Options of others, each with the names on the right of it."""
    found = []
    for line in (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            left, right = (cell.strip() for cell in line.strip("|").split(" | ")[:2])
            ours = [a or b for a, b in re.findall(r"([a-z]+(?:\.[a-z_]+)+)|\b([a-z]+)=", right)]
            names = [
                next(filter(None, groups))
                for code in re.findall(r"`([^`]+)`", left)
                for groups in _OPTION.findall(code)
            ]
            found += [(name.replace("-", "_"), ours) for name in names if any("." in o or o in right for o in ours)]
    return [(name, ours) for name, ours in found if name not in OTHERWISE]


@pytest.mark.parametrize(("name", "ours"), rows(), ids=lambda value: value if isinstance(value, str) else "")
def test_an_option_of_another_framework_is_answered_with_ours(name, ours, capsys):
    code = front(["--check", f"{name}=x"], PretrainConfig, "pretrain", lambda *_: 1, "")
    answer = capsys.readouterr().err
    assert code == 2
    assert any(re.search(rf"did you mean .*\b{re.escape(o)}\b", answer) for o in ours), answer
