"""Checkpoints that Megatron-core and DeepSpeed make of small models, by name: how many ranks train them, and what."""

from tests.reference import megatron_gpt, zero

MEGATRON = {
    "gpt": (1, megatron_gpt.Kind()),
    "llama_tensor2": (2, megatron_gpt.Kind(llama=True, tensor=2, stacked=False)),
    "gpt_pipeline2": (2, megatron_gpt.Kind(pipeline=2)),
    "llama_distributed": (2, megatron_gpt.Kind(llama=True, distributed=True)),
    "gpt_buckets": (2, megatron_gpt.Kind(distributed=True, sharding="dp_reshardable")),
    "llama_buckets_tensor2_bf16": (
        4,
        megatron_gpt.Kind(llama=True, distributed=True, tensor=2, bf16=True, sharding="dp_reshardable"),
    ),
    "gpt_buckets_pipeline2": (4, megatron_gpt.Kind(distributed=True, pipeline=2, sharding="dp_reshardable")),
    "gpt_bf16_distributed_tensor2": (4, megatron_gpt.Kind(distributed=True, tensor=2, bf16=True)),
}
ZERO = {
    "gpt2_zero1": (2, zero.Kind(1)),
    "gpt2_zero2": (2, zero.Kind(2)),
    "gpt2_zero3": (2, zero.Kind(3)),
    "llama_zero3": (2, zero.Kind(3, "llama")),
    "llama_zero1_bf16": (2, zero.Kind(1, "llama", bf16=True)),
    "megatron_llama_zero2_tensor2": (4, zero.Kind(2, "megatron_llama", tensor=2)),
}


def train_and_save(ranks, name, directory):
    """Trains `name` and saves it in `directory`; what each rank that made it says."""
    size, kind = (MEGATRON | ZERO)[name]
    module = zero if isinstance(kind, zero.Kind) else megatron_gpt
    return ranks.run(size, module.train_and_save, kind, directory)
