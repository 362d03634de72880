"""The tables of docs/coming_from.md and the suggestions of the program name the same settings."""

import re
from collections.abc import Callable

import pytest
import torch

from dist_plm.cli.app import front, load
from dist_plm.optim.schedules import learning_rate
from dist_plm.spec.schema import PretrainConfig
from tests.docs.blocks import ROOT

#: Options that are no setting here, or whose name says too little alone.
OTHERWISE = {"resume_from_checkpoint", "enabled", "type", "data_path", "use_distributed_optimizer", "num_gpus"}
_OPTION = re.compile(r"--([a-z0-9_-]+)|(?<!=)\"([a-z_]+)\":?|(?:^|\()([a-z_0-9]+)(?==|$)")


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


def of_transformers(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    import transformers

    return transformers.get_cosine_schedule_with_warmup(optimizer, 100, 1000).step


def of_megatron(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    scheduler = OptimizerParamScheduler(
        optimizer,  # pyright: ignore[reportArgumentType]
        init_lr=0.0,
        max_lr=1.0,
        min_lr=0.0,
        lr_warmup_steps=100,
        lr_decay_steps=1000,
        lr_decay_style="cosine",
        start_wd=0.0,
        end_wd=0.0,
        wd_incr_steps=1000,
        wd_incr_style="constant",
    )
    return lambda: scheduler.step(1)


def of_deepspeed(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    from deepspeed.runtime.lr_schedules import WarmupDecayLR

    return WarmupDecayLR(optimizer, 1000, warmup_max_lr=1.0, warmup_num_steps=100, warmup_type="linear").step


@pytest.mark.parametrize(
    ("option", "theirs", "ahead"),
    [
        ('lr_scheduler_type="cosine"', of_transformers, (1, 0)),
        ("--lr-decay-style cosine", of_megatron, (1, 0)),
        ('"warmup_type": "linear"', of_deepspeed, (2, 1)),
    ],
)
def test_a_learning_rate_is_that_of_the_other_framework(option, theirs, ahead):
    """Ours is `ahead` of theirs by so many updates during warm-up, and during the decay."""
    page = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("|") and option in line)
    given = [one for one in re.findall(r"\bschedule(?:\.[a-z_]+)?=[^ `]+", row) if "warmup" not in one]
    config, _ = load(PretrainConfig, "pretrain", [*given, "schedule.warmup_steps=100"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    step, rates = theirs(optimizer), []
    for _ in range(1003):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        step()
    for update in (0, 1, 9, 49, 99, 100, 101, 500, 999, 1000):
        expected = rates[update + ahead[0 if update < 100 else 1]]
        ours = learning_rate(config.schedule, step=update, steps=1000, peak=1.0)
        assert ours == pytest.approx(expected, abs=1e-12), update
