"""The peer: Calculon's equations (Isaev et al. 2023, "Calculon: a methodology and tool for high-level co-design of systems and
large language models", SC23), written anew from its description, with the constants of its published A100 and H100 systems.

Each operation of a GPT layer takes its FLOPs at a share of the peak that depends on their number, and after that the time of
its bytes; tensor parallelism adds two collectives of each pass, the pipeline (p - 1) / v passes of a stage, data parallelism
a reduction of the gradients. It knows neither embedding nor output.
"""

from dataclasses import dataclass

from dist_plm.spec.derived import num_microbatches
from dist_plm.spec.schema import PretrainConfig

#: At least so many GFLOP or MB -> share of the peak.
_MATRIX = ((128, 0.95), (16, 0.9), (1, 0.6), (0, 0.1))
_VECTOR = ((16, 0.95), (1, 0.5), (0, 0.1))
_MEMORY = ((100, 0.9), (10, 0.75), (1, 0.6), (0, 0.3))


@dataclass(frozen=True, slots=True)
class System:
    """Describes a GPU and its networks: 10^12 FLOP/s of matrices and vectors, GB/s of memory, link and network."""

    matrix: float
    vector: float
    memory: float
    link: float
    network: float

    def operation(self, flops: float, num_bytes: float, *, matrix: bool) -> float:
        """Seconds of an operation: both times, one after the other."""
        peak = self.matrix if matrix else self.vector
        share = _share(_MATRIX if matrix else _VECTOR, flops / 1e9)
        return flops / (peak * 1e12 * share) + num_bytes / (self.memory * 1e9 * _share(_MEMORY, num_bytes / 1e6))

    def collective(self, num_bytes: float, ranks: int, *, inside: bool, whole: bool = False) -> float:
        """Seconds of an all-reduce, or of a gather or scatter; inside a node by rings, outside in the switches."""
        if ranks == 1:
            return 0.0
        if not inside:
            return 2e-5 + num_bytes / (self.network * 1e9 * 0.9)
        scale = (2.0 if whole else 1.5) * (1 - 1 / ranks)
        return 1e-5 + scale * num_bytes / (self.link * 1e9 * 0.65)


#: Ours -> its own.
SYSTEMS = {"a100": System(312, 78, 2048, 300, 25), "h100": System(1000, 120, 3072, 450, 50)}


def _share(table: tuple[tuple[int, float], ...], size: float) -> float:
    return next(share for least, share in table if size >= least)


def can_express(config: PretrainConfig, gpu: str) -> bool:
    """Whether it is a GPT of 16 bits on one of its systems."""
    model = config.model
    plain = model.family == "gpt" and model.activation != "swiglu" and model.kv_heads == model.heads
    return plain and gpu in SYSTEMS and config.engine.zero_stage <= 1 and config.precision.name in ("fp16", "bf16")


def step_seconds(config: PretrainConfig, gpu: str) -> float:
    """Predicts the seconds of a step."""
    system, parallel, model = SYSTEMS[gpu], config.parallel, config.model
    count = num_microbatches(config.train, parallel)
    forward, backward, again = _layer(config, system)
    tokens = config.train.micro_batch * config.data.sequence_length
    size = 2 * tokens * model.hidden
    tensor, stages, data = parallel.tensor, parallel.pipeline, parallel.data or 1
    inside = tensor <= 8
    if parallel.sequence_parallel:
        pass_of_layer = 4 * system.collective(size, tensor, inside=inside)
    else:
        pass_of_layer = 2 * system.collective(size, tensor, inside=inside, whole=True)
    layer = forward + backward + again + 2 * pass_of_layer + (pass_of_layer if model.recompute == "full" else 0.0)
    layers = model.layers / stages
    message = 2 * parallel.virtual_pipeline * (2e-5 + size / tensor / (system.network * 1e9 * 0.9))
    stage = layers * layer + (message if stages > 1 else 0.0)
    bubble = (stages - 1) / parallel.virtual_pipeline * stage
    weights = layers * _weights(config) / tensor
    reduction = system.collective(2 * weights, data, inside=tensor * data <= 8, whole=True)
    overlap = layers * backward if config.engine.overlaps(on_gpus=True) else 0.0
    update = system.operation(11 * weights, 30 * weights, matrix=False)
    return count * stage + bubble + max(0.0, reduction - overlap) + update


def _weights(config: PretrainConfig) -> float:
    model = config.model
    return model.hidden * (4 * model.hidden + 2 * (model.ffn or 4 * model.hidden))


def _layer(config: PretrainConfig, system: System) -> tuple[float, float, float]:
    """Seconds of a layer of a microbatch: forward, backward, and what is computed again."""
    model, tensor = config.model, config.parallel.tensor
    length, samples = config.data.sequence_length, config.train.micro_batch
    tokens, hidden, ffn = samples * length, model.hidden, model.ffn or 4 * model.hidden
    heads, between = model.heads / tensor, tensor if config.parallel.sequence_parallel else 1
    products = (
        (3 * hidden / tensor, hidden),
        (hidden, hidden / tensor),
        (ffn / tensor, hidden),
        (hidden, ffn / tensor),
    )
    forward = backward = 0.0
    for columns, terms in products:
        flops, moved = 2 * tokens * columns * terms, 2 * (tokens * columns + tokens * terms + columns * terms)
        forward += system.operation(flops, moved, matrix=True)
        backward += 2 * system.operation(flops, moved, matrix=True)
    scores = samples * heads * length**2
    width = hidden / model.heads
    of_scores = 2 * scores * width, 2 * (scores + 2 * tokens * hidden / tensor)
    attention = 2 * system.operation(*of_scores, matrix=True)
    softmax = system.operation(5 * scores, 4 * scores, matrix=False) + system.operation(
        scores, 5 * scores, matrix=False
    )
    # Norm, dropout and residual sum of each half, and the activation function: FLOPs and bytes an element.
    state = tokens * hidden / between
    small = 2 * (
        system.operation(9 * state, 4 * state, matrix=False)
        + system.operation(state, 5 * state, matrix=False)
        + system.operation(state, 6 * state, matrix=False)
    ) + system.operation(8 * tokens * ffn / tensor, 4 * tokens * ffn / tensor, matrix=False)
    forward += attention + softmax + small
    backward += 2 * attention + softmax + small
    again = {"none": 0.0, "selective": attention + softmax, "full": forward}[model.recompute]
    return forward, backward, again
