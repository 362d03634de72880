"""What the fork server imports, once, so that the processes it forks need not.

Most cases leave threads behind, so that the next one has new ranks: what they all import would be most of their time.
"""

import os
from importlib import import_module
from pathlib import Path

# Read when PyTorch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import tests.ranks.pool  # noqa: F401

#: Training and inference, both engines with what they import when they build, and what tests bring.
MODULES: tuple[str, ...] = (
    "dist_plm.engines.deepspeed.json_schema",  # without chatter
    "dist_plm.engines.deepspeed.engine",
    "dist_plm.engines.megatron.engine",
    "torch._inductor.compile_fx",
    "megatron.core.models.gpt.gpt_layer_specs",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "dist_plm.objectives.causal",
    "dist_plm.optim.adamw",
    "dist_plm.tasks.evaluate.evaluate",
    "dist_plm.tasks.generate.generate",
    "dist_plm.train.build",
    "dist_plm.checkpoint.io.blobs",
    "dist_plm.objectives.tasks.tag",
    "dist_plm.optim.lamb",
    "setuptools",
    "distutils.ccompiler",  # setuptools' own
    "numpy.ma",
    "torch.profiler",
    "transformers.generation.utils",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "transformers.models.t5.modeling_t5",
    "pytest",
    "tests.checkpoint.saving",
    "tests.ranks.engine_runs",
    "tests.ranks.labelled",
    "tests.tasks.inference.models",
    "tests.train.finetuning",
    "tests.train.running",
)
# On a machine with a GPU some may be missing, and DeepSpeed asks for devices, which no process that forks may do.
if Path("/dev/nvidiactl").exists():
    MODULES = ()
for name in MODULES:
    import_module(name)
