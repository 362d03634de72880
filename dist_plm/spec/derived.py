"""Derives what follows from other settings: sizes that are None until derived, and counts that several floors need alike."""

import os
from dataclasses import dataclass, replace

from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.schema import ModelConfig, ParallelConfig, PretrainConfig, ScheduleConfig

#: Feed-forward sizes derived for swiglu are rounded up to a multiple of this (Llama's `multiple_of`).
FFN_MULTIPLE = 256

ENCODERS = ("bert", "roberta", "electra")
ENCODER_DECODERS = ("t5", "transformer")


@dataclass(frozen=True, slots=True)
class Case:
    """A configuration under check: `config` has its None fields filled in, `given` is what the user wrote."""

    given: PretrainConfig
    config: PretrainConfig
    world_size: int
    vocab_size: int | None


def padded_vocab_size(vocab_size: int, multiple: int, tensor: int) -> int:
    """The smallest multiple of `multiple` x `tensor` that holds `vocab_size` rows: every tensor rank has as many."""
    unit = multiple * tensor
    return -(-vocab_size // unit) * unit


def num_microbatches(config: PretrainConfig, batch: int | None = None) -> int:
    """Passes each data rank makes in a step of a finalised configuration: batch / (micro-batch x data ranks), of the global
    batch or of the given one."""
    assert config.parallel.data is not None, "parallel.data is None: finalize the configuration first"
    return (batch or config.train.global_batch) // (config.train.micro_batch * config.parallel.data)


def num_warmup_steps(schedule: ScheduleConfig, steps: int) -> int:
    """The warm-up in updates: `warmup_steps`, or the nearest whole number to `warmup_ratio` x `steps`, or 0."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    return round((schedule.warmup_ratio or 0.0) * steps)


def peak_learning_rate(config: PretrainConfig) -> float:
    """`optim.lr`, scaled from `optim.lr_batch` to the global batch: linearly (Goyal et al. 2017, arXiv 1706.02677, section
    2.1), or with the square root (You et al. 2020, arXiv 1904.00962, section 4.3)."""
    optim = config.optim
    if optim.lr_batch is None:
        return optim.lr
    ratio = config.train.global_batch / optim.lr_batch
    return optim.lr * (ratio if optim.lr_scaling == "linear" else ratio**0.5)


def model_ranks(parallel: ParallelConfig) -> int:
    """Ranks that hold one copy of the model between them."""
    return parallel.tensor * parallel.pipeline * parallel.context * parallel.expert


def checkpoints_of(config: PretrainConfig) -> str:
    """The path or URL of a finalised run's checkpoints."""
    assert config.run.dir is not None, "run.dir is None: finalize the configuration first"
    return config.checkpoint.dir or os.path.join(config.run.dir, "checkpoints")


def derive(config: PretrainConfig, *, world_size: int, vocab_size: int | None) -> PretrainConfig:
    """`config` with every None that has a rule for it filled in, unchecked: remainders of divisions are dropped."""
    data = config.parallel.data or max(1, world_size // model_ranks(config.parallel))
    return replace(
        config,
        run=replace(config.run, dir=config.run.dir or os.path.join(config.run.root, config.run.name)),
        model=_derive_model(config.model, vocab_size, config.data.sequence_length, config.objective),
        parallel=replace(config.parallel, data=data),
    )


def generator_of(model: ModelConfig) -> ModelConfig:
    """ELECTRA's generator: the discriminator's network at its own size, with the embeddings of the discriminator."""
    assert model.generator_hidden is not None
    assert model.generator_layers is not None
    assert model.generator_heads is not None
    return replace(
        model,
        hidden=model.generator_hidden,
        layers=model.generator_layers,
        heads=model.generator_heads,
        kv_heads=model.generator_heads,
        head_size=model.generator_hidden // model.generator_heads,
        ffn=model.generator_ffn,
    )


def _derive_model(
    model: ModelConfig, vocab_size: int | None, sequence_length: int, objective: ObjectiveConfig
) -> ModelConfig:
    derived = replace(
        model,
        kv_heads=model.kv_heads or model.heads,
        head_size=model.head_size or max(1, model.hidden // model.heads),
        ffn=model.ffn or _default_ffn(model),
        vocab_size=model.vocab_size or vocab_size,
        max_positions=model.max_positions or sequence_length,
    )
    if model.family in ENCODER_DECODERS:
        return replace(derived, decoder_layers=model.decoder_layers or model.layers)
    if model.family in ENCODERS:
        derived = replace(derived, embedding_size=model.embedding_size or model.hidden)
    if model.family == "bert" and model.pair_head is None:
        return replace(derived, pair_head=objective.pairs is not None)
    return _derive_generator(derived) if model.family == "electra" else derived


def _derive_generator(model: ModelConfig) -> ModelConfig:
    assert model.head_size is not None
    hidden = model.generator_hidden or max(1, model.hidden // 4)
    return replace(
        model,
        generator_hidden=hidden,
        generator_layers=model.generator_layers or model.layers,
        generator_heads=model.generator_heads or max(1, hidden // model.head_size),
        generator_ffn=model.generator_ffn or 4 * hidden,
    )


def _default_ffn(model: ModelConfig) -> int:
    """4 hidden (Vaswani et al. 2017); 8/3 hidden with swiglu, whose third matrix makes up for it (Shazeer 2020)."""
    if model.activation != "swiglu":  # T5 v1.1 gives its own size for geglu
        return 4 * model.hidden
    return -(-8 * model.hidden // (3 * FFN_MULTIPLE)) * FFN_MULTIPLE
