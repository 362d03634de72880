"""What commands import: none that needs no tensors brings PyTorch or Megatron-core in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from startup import (  # pyright: ignore[reportMissingImports]
    CHECKPOINTED,
    COMMANDS,
    RECORDED,
    Command,
    start,
    write_store,
)

ROOT = Path(__file__).parents[2]
#: What a command without tensors does without, and more that belongs to other commands.
TENSORS = {"torch", "megatron.core", "deepspeed", "transformers", "datasets", "wandb"}
#: What reads tables and other programs' tokenizers, and bars of progress: a tenth of a second together.
READERS = {"pyarrow", "sentencepiece", "google.protobuf", "tqdm"}


@pytest.mark.parametrize("script", ["pretrain", "submit", "convert", "report", "plan", "finetune", "generate"])
def test_help_imports_no_tensors(script):
    begun = start(Command(script, ["--help"]))
    assert begun.code == 0
    assert not begun.modules & {*TENSORS, *READERS, "tokenizers"}


@pytest.mark.parametrize("name", ["pretrain --check", "submit dry_run", "report RUN", "convert inspect="])
def test_what_needs_no_tensors_imports_none(tmp_path, name):
    write_store(tmp_path / "store")
    runs = {"CHECKPOINTED": str(CHECKPOINTED), "RECORDED": str(RECORDED)}
    begun = start(COMMANDS[name], {"STORE": str(tmp_path / "store"), **runs})
    assert begun.code == 0
    assert "numpy" in begun.modules, "it has looked at numbers"
    assert not begun.modules & {*TENSORS, *READERS}


def test_looking_at_weights_to_begin_with_brings_no_megatron():
    """As `--check` and `submit` do where `model.init_from` names some."""
    heavy = {"torch", "megatron.core", "torch.distributed.checkpoint"}
    code = f"import sys, dist_plm.train.startup.load_weights; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "{'torch'}\n"


def test_measuring_and_looking_at_prompts_bring_no_transformers():
    """Which what writes needs alone."""
    asked = "dist_plm.tasks.evaluate.evaluate, dist_plm.tasks.generate.check_generation"
    code = f"import sys, {asked}; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_deepspeed_brings_no_tracker(tmp_path):
    """Its tuner would, where there is one; whoever wants it finds it afterwards."""
    (tmp_path / "mlflow.py").touch()
    code = "import sys, dist_plm.engines.deepspeed.json_schema; found = {'deepspeed', 'mlflow'} & set(sys.modules); "
    code += "import mlflow; sys.exit(found != {'deepspeed'})"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False).returncode
        == 0
    )
