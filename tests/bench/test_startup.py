"""What commands import: none that needs no tensors brings PyTorch or Megatron-core in."""

import sys
from pathlib import Path

import pytest

from tests.train.running import make_store

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from startup import start  # pyright: ignore[reportMissingImports]

#: What a command without tensors does without, and more that belongs to other commands.
TENSORS = {"torch", "megatron.core", "deepspeed", "transformers", "datasets", "wandb"}
RUN = str(Path(__file__).parents[1] / "fixtures" / "before" / "run")


@pytest.mark.parametrize("script", ["pretrain", "submit", "convert", "report", "plan", "finetune", "generate"])
def test_help_imports_no_tensors(script):
    begun = start(script, "--help")
    assert begun.code == 0
    assert not begun.modules & {*TENSORS, "tokenizers", "pyarrow"}


@pytest.mark.parametrize(
    "words",
    [
        ("pretrain", "--check", "data.path=STORE", "model.vocab_size=128"),
        ("submit", "submit.dry_run=true", "data.path=STORE", "model.vocab_size=128", "cluster=example_cpu"),
        ("report", RUN),
    ],
)
def test_what_needs_no_tensors_imports_none(tmp_path, words):
    store = str(make_store(tmp_path / "text"))
    begun = start(*(word.replace("STORE", store) for word in words))
    assert "dist_plm" in begun.modules
    assert not begun.modules & TENSORS


def test_looking_into_a_checkpoint_imports_tensors_but_no_megatron():
    begun = start("convert", f"inspect={RUN}")
    assert begun.code == 0
    assert "torch" in begun.modules
    assert not begun.modules & {"megatron.core", "deepspeed", "transformers", "torch._dynamo"}
