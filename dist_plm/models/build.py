"""Builds the model chunks of one rank."""

from collections.abc import Collection
from dataclasses import replace

import torch
from megatron.core.transformer import TransformerConfig

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.groups import Groups, alone
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.electra import Electra, ElectraEncoder
from dist_plm.models.encoder import MaskedLanguageModel
from dist_plm.models.encoder_decoder import EncoderDecoder
from dist_plm.models.gpt import CausalLanguageModel
from dist_plm.models.init import initialize
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sharding import ShardSpec, describe
from dist_plm.spec.families.base import no_network
from dist_plm.spec.objectives.base import CROSS_ENTROPY, TokenLoss
from dist_plm.spec.pipeline import layers_of_chunk
from dist_plm.spec.rules.finalize import padded_vocab_size
from dist_plm.spec.schema import ModelConfig, ParallelConfig, PrecisionConfig

#: Of weights and activations.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_model(
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    groups: Groups,
    device: torch.device,
    *,
    seed: int,
    token_loss: TokenLoss = CROSS_ENTROPY,
    frozen: Collection[str] = (),
    filled: bool = True,
) -> tuple[list[ModelChunk], list[ShardSpec]]:
    """Builds the initialised chunks that this rank holds, in the order it runs them, and the shard spec of their parameters.

    Args:
        model: finalised.
        seed: of the weights, and of dropout.
        token_loss: what is learned of a predicted token.
        frozen: canonical names of tensors that are not trained: all or none of those that are fused.
        filled: whether the weights are drawn; where their sizes are all that is asked for, they need not be.
    """
    shared = model_context_of(model, parallel, precision, groups, device, seed=seed)
    shared, count = replace(shared, token_loss=token_loss), parallel.virtual_pipeline
    chunks = [build_chunk(shared, chunk, count) for chunk in range(count)]
    shard_specs = describe(chunks, groups.coordinates.tensor, groups.grid.tensor)
    if filled:
        initialize(shard_specs, model, seed)
    for shard_spec in shard_specs:
        shard_spec.parameter.requires_grad_(not any(shard.name in frozen for shard in shard_spec.shards))
    return chunks, shard_specs


def whole_shard_specs(model: ModelConfig) -> list[ShardSpec]:
    """Builds the shard specs of a whole finalised model, with no memory for its weights and without process groups."""
    # Linear layers in 8 bits need a GPU; their weights are the same.
    single, precision = ParallelConfig(data=1), PrecisionConfig(name="fp32")
    nowhere = torch.device("meta")
    with nowhere:
        chunk = build_chunk(model_context_of(model, single, precision, alone(), nowhere, seed=0), 0, 1)
    return describe([chunk], 0, 1)


#: The network of each family.
NETWORKS: dict[str, type[ModelChunk]] = {
    "gpt": CausalLanguageModel,
    "bert": MaskedLanguageModel,
    "roberta": MaskedLanguageModel,
    "electra": Electra,
    "t5": EncoderDecoder,
    "transformer": EncoderDecoder,
}


#: And below the head of a task, where that is another.
TASK_NETWORKS: dict[str, type[ModelChunk]] = {"electra": ElectraEncoder}


def build_chunk(shared: ModelContext, chunk: int, chunks: int) -> ModelChunk:
    """Chunk number `chunk` of the `chunks` that this rank holds, its weights not filled yet. Models that are one chain of
    layers are cut into pipeline stages; those that are a pair of networks are whole.

    Raises:
        ConfigError: the family has no network.
    """
    stage, stages = shared.groups.coordinates.pipeline, shared.groups.grid.pipeline
    assert shared.model.is_chain or stages == chunks == 1, "a rule refuses pipelines of such models"
    networks = NETWORKS if shared.model.predicts_tokens else NETWORKS | TASK_NETWORKS
    if shared.model.family not in networks:
        raise ConfigError([no_network(shared.model)])
    return networks[shared.model.family](
        shared,
        layers_of_chunk(shared.model.layers, stage, stages, chunk, chunks, shared.stage_layers),
        first=stage == 0 and chunk == 0,
        last=stage == stages - 1 and chunk == chunks - 1,
        chunk=chunk if chunks > 1 else None,
    )


def model_context_of(
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    groups: Groups,
    device: torch.device,
    *,
    seed: int,
) -> ModelContext:
    """Builds what the modules of a finalised model share."""
    dtype = DTYPES[precision.weights]
    assert model.vocab_size is not None
    return ModelContext(
        model=model,
        megatron=megatron_config(model, parallel, precision, device),
        groups=groups,
        dtype=dtype,
        device=device,
        sequence_parallel=parallel.sequence_parallel,
        padded_vocab_size=padded_vocab_size(model.vocab_size, model.vocab_multiple, parallel.tensor),
        seed=seed,
        context_parallel=parallel.context > 1,
        stage_layers=parallel.stage_layers,
        in_8_bits=precision.in_8_bits,
    )


def megatron_config(
    model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig, device: torch.device
) -> TransformerConfig:
    """Builds the configuration that Megatron-core's linear layers, schedules and gradient reduction read."""
    dtype = DTYPES[precision.weights]
    return TransformerConfig(
        num_layers=model.layers,
        hidden_size=model.hidden,
        num_attention_heads=model.heads,
        num_query_groups=model.kv_heads,
        kv_channels=model.head_size,
        ffn_hidden_size=model.ffn,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        context_parallel_size=parallel.context,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline if parallel.virtual_pipeline > 1 else None,
        sequence_parallel=parallel.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        fp16=dtype == torch.float16,
        bf16=dtype == torch.bfloat16,
        use_cpu_initialization=device.type != "cuda",
        perform_initialization=False,  # models.init fills the weights, the same on every grid
        calculate_per_token_loss=True,
        gradient_accumulation_fusion=False,
        # The interleaved schedule is silently wrong with batched sends (Megatron-core 0.16): on gloo, and on NCCL where the
        # next stage is the one before as well.
        batch_p2p_comm=device.type == "cuda" and parallel.virtual_pipeline == 1,
        overlap_p2p_comm=parallel.virtual_pipeline > 1,
        batch_p2p_sync=False,  # each message would wait for the device, against a fault of PyTorch before 1.13
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        cuda_graph_scope=[],  # its default warns that it is deprecated
        hidden_dropout=model.hidden_dropout,
        attention_dropout=model.attention_dropout,
    )
