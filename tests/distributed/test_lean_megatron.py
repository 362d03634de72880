"""What is said on import of Megatron-core."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import dist_plm.distributed
import megatron.core.models.gpt, megatron.core.optimizer, megatron.core.distributed
import warnings
warnings.warn("Apex is not installed. Falling back to something of our own", UserWarning)
warnings.warn("something else", UserWarning)
"""


def test_only_the_fallbacks_of_megatron_are_silenced():
    command = [sys.executable, "-W", "default::UserWarning", "-c", SCRIPT]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, stderr=subprocess.PIPE, text=True)
    said = [line for line in result.stderr.splitlines() if "Warning:" in line]
    assert [line.split("Warning: ")[1] for line in said] == [
        "Apex is not installed. Falling back to something of our own",
        "something else",
    ]


def imported_by(program: str) -> set[str]:
    """Names of the modules that a program in a process of its own has imported at its end."""
    result = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules)"],
        cwd=Path(__file__).parents[2],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return set(result.stdout.split())


def test_a_run_imports_no_compiler_and_no_tracker():
    modules = imported_by(
        "import dist_plm.train.build, dist_plm.engines.megatron.engine, dist_plm.models.build\n"
        "import dist_plm.tasks.evaluate.in_training, dist_plm.cluster.preflight"
    )
    assert "megatron.core.pipeline_parallel.schedules" in modules
    assert not modules & {
        "wandb",
        "torch.utils.tensorboard",
        "torch._dynamo",
        "torch._inductor",
        "deepspeed",
        "datasets",
        "transformers",
        "pyarrow",
    }


def test_afterwards_the_compiler_and_trackers_are_there_as_before():
    modules = imported_by(
        "import torch\ncompiler = torch.compile\n"
        "import dist_plm.models.build, torch.utils.tensorboard, wandb\n"
        "assert torch.compile is compiler"
    )
    assert {"wandb", "torch.utils.tensorboard"} <= modules


STEP = """
import torch
from dist_plm.engines.compiling import spare_compiler
from dist_plm.optim.base import build_optimizer, set_learning_rate
from dist_plm.spec.optimizers import OPTIMIZERS

spare_compiler()
weight = torch.nn.Parameter(torch.ones(3))
groups = [{"params": [weight], "weight_decay": 0.0, "lr_scale": 1.0}]
torch.optim.AdamW([dict(group) for group in groups])
for name in ("adam", "adamw"):
    optimizer = build_optimizer(OPTIMIZERS[name](lr=0.1), [dict(group) for group in groups])
    optimizer.zero_grad()
    weight.grad = torch.ones(3)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
assert weight.detach().sum() < 3
"""


def test_an_update_imports_no_compiler():
    modules = imported_by(STEP)
    assert "torch.optim.adamw" in modules
    assert "torch._dynamo" not in modules
