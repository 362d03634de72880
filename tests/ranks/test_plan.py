"""What a plan says of memory is what real ranks hold: weights, gradients, masters and moments, and what layers keep."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from dist_plm.models.build import build_model
from dist_plm.plan.activations import Pass, kept_by_layer
from dist_plm.plan.memory import memory_by_stage
from dist_plm.plan.rank_tensors import stages_of
from dist_plm.spec.freezing import frozen_tensors
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_grids import GRIDS, MODELS
from tests.ranks.training import LENGTH, batch_of, build, configure, groups_of

pytestmark = pytest.mark.ranks

DEEPSPEED = {"engine__name": "deepspeed"}
BF16 = {"precision__name": "bf16"}
#: Name -> grid and changes: each engine and stage, each optimizer, each axis.
CASES = {
    "megatron0": ("data2", {}),
    "megatron0_bf16": ("tensor2_pipeline2", BF16),
    "megatron1": ("data2_tensor2", {"engine__zero_stage": 1}),
    "megatron1_bf16": ("data2_pipeline2_virtual2", {"engine__zero_stage": 1, **BF16}),
    "megatron1_bf16_sums": ("data2", {"engine__zero_stage": 1, "precision__reduce_in_fp32": False, **BF16}),
    "lamb": ("data2_tensor2", {"engine__zero_stage": 1, "optim__name": "lamb"}),
    "muon": ("tensor2", {"optim__name": "muon"}),
    "sgd": ("data2", {"optim__name": "sgd", "optim__momentum": 0.9}),
    "adafactor": ("tensor2", {"optim__name": "adafactor"}),
    "deepspeed0": ("data2_tensor2", {**DEEPSPEED, "engine__zero_stage": 0}),
    "deepspeed1": ("data2_pipeline2", {**DEEPSPEED, "engine__zero_stage": 1}),
    "deepspeed1_bf16": ("tensor2", {**DEEPSPEED, "engine__zero_stage": 1, **BF16}),
    "deepspeed2": ("data4", {**DEEPSPEED, "engine__zero_stage": 2}),
    "deepspeed3_bf16": ("data2", {**DEEPSPEED, "engine__zero_stage": 3, **BF16}),
    "llama": ("tensor2", MODELS["llama"]),
    "bert": ("data2_tensor2", {"model__family": "bert", "objective__name": "mlm_nsp", "model__segments": 2}),
    "roberta": ("pipeline2", {"model__family": "roberta", "objective__name": "mlm"}),
    "electra": (
        "tensor2",
        {
            "model__family": "electra",
            "objective__name": "rtd",
            "model__generator_heads": 2,
            "model__generator_hidden": 32,
        },
    ),
    "frozen": ("data2_pipeline2", {"engine__zero_stage": 1, "train__freeze": ("embeddings", "layers.0-1"), **BF16}),
    "frozen_deepspeed3": ("data2", {**DEEPSPEED, "engine__zero_stage": 3, "train__freeze": ("layers.1-2",)}),
    "adapters": ("data2_tensor2", {"engine__zero_stage": 1, "model__lora": {"rank": 4}, **BF16}),
    "t5": ("tensor2", {"model__family": "t5", "objective__name": "span", "model__position": "relative"}),
}


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that one rank holds."""

    stage: int
    weights: int
    masters: int
    moments: int


def hold_case(world: World, config) -> Held:
    engine, groups = build(world, config)
    state = engine._state
    state._fill()
    shard_specs = state._shard_specs
    weights = sum(getattr(one.parameter, "ds_tensor", one.parameter).numel() for one in shard_specs)
    fragments = [one for held in state._held.values() for one in held]
    masters = sum(4 * one.length for one in fragments if storage(one.tensor) != storage(one.parameter))
    moments = 0
    for one in fragments:
        kept = state._inner.state[one.tensor]
        names = [name for name, values in kept.items() if name != "step" and values.numel() == one.tensor.numel()]
        moments += sum(one.length * kept[name].element_size() for name in names)
    if hasattr(state._inner, "shared_moments"):
        count = sum(len(one.shards) for one in shard_specs)
        moments += sum(4 * v.numel() for slot in range(count) for v in state._inner.shared_moments(slot).values())
    return Held(groups.coordinates.pipeline, weights * shard_specs[0].parameter.element_size(), masters, moments)


def storage(tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    "name", covering(list(CASES), ["megatron1_bf16", "adafactor", "deepspeed3_bf16", "bert", "frozen"])
)
def test_what_ranks_keep_of_parameters_is_planned_to_the_byte(ranks, tmp_path, name):
    world_size, changes = GRIDS[CASES[name][0]]
    config = configure(world_size, run__root=str(tmp_path), **changes, **CASES[name][1])
    found = ranks.run(world_size, hold_case, config)
    holding = config.engine.holding(config.precision, config.parallel.data)
    for planned in memory_by_stage(config):
        here = [held for held in found if held.stage == planned.stage]
        for term, over in (
            ("weights", holding.weights_over),
            ("masters", holding.masters_over),
            ("moments", holding.masters_over),
        ):
            sizes = [getattr(held, term) for held in here]
            # Shards are cut unevenly, but add up.
            assert sum(sizes) / len(here) == planned.terms[term].low, (term, sizes)
            assert over > 1 or len(set(sizes)) == 1


#: With dropout attention is a kernel of this program, as on a GPU; without it the CPU's own keeps scores.
T5 = {
    "model__family": "t5",
    "objective__name": "span",
    "model__position": "relative",
    "model__norm": "rmsnorm",
    "model__bias": False,
    "model__hidden_dropout": 0.1,
    "model__attention_dropout": 0.1,
}
#: Targets of the tests' batches are half as long as what is read and one more, lengthened.
WRITTEN = LENGTH // 2 + 8
#: Kinds of layers whose activations are counted.
LAYERS = {
    "gpt": {},
    "bf16": {"precision__name": "bf16"},
    "dropout": {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1},
    "selective": {"model__recompute": "selective"},
    "full": {"model__recompute": "full"},
    "llama": MODELS["llama"],
    "llama_selective": {**MODELS["llama"], "model__recompute": "selective"},
    "bert": {
        "model__family": "bert",
        "objective__name": "mlm",
        "model__norm_placement": "post",
        "model__activation": "gelu",
    },
    "tensor": {"parallel__tensor": 2},
    "sequence": {"parallel__tensor": 2, "parallel__sequence_parallel": True},
    "electra": {
        "model__family": "electra",
        "objective__name": "rtd",
        "model__generator_heads": 2,
        "model__generator_hidden": 32,
    },
    "t5": {**T5, "model__activation": "relu"},
    "t5_v1_1": {**T5, "model__activation": "geglu", "model__tied_embeddings": False},
    "adapters": {"model__lora": {"rank": 4, "targets": ("query", "value")}},
    "adapters_everywhere": {
        **MODELS["llama"],
        "model__lora": {
            "rank": 4,
            "targets": ("query", "key", "value", "output", "gate", "up", "down"),
            "dropout": 0.1,
        },
    },
}


def kept_case(world: World, config) -> int:
    """Bytes that autograd holds of one microbatch after its forward pass, but for parameters."""
    groups = groups_of(world, config)
    sections = (config.model, config.parallel, config.precision)
    frozen = frozen_tensors(config.model, config.train.freeze)
    options = {"seed": config.train.seed, "frozen": frozen}
    (chunk,), _ = build_model(*sections, groups, groups.device.torch_device, **options)
    chunk.train()
    owned, held = {storage(one) for one in chunk.parameters()}, {}

    def keep(tensor):
        held[storage(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = chunk(batch_of(config, np.arange(config.train.micro_batch)))
    del scores
    return sum(one.untyped_storage().nbytes() for place, one in held.items() if place not in owned)


@pytest.mark.parametrize(
    "name", covering(list(LAYERS), ["gpt", "selective", "llama", "t5", "electra", "adapters", "sequence"])
)
def test_what_layers_keep_is_what_autograd_holds(ranks, tmp_path, name):
    sizes, size = {}, LAYERS[name].get("parallel__tensor", 1)
    for layers in (2, 4):
        config = configure(size, model__layers=layers, train__micro_batch=2, run__root=str(tmp_path), **LAYERS[name])
        sizes[layers] = max(ranks.run(size, kept_case, config))
    one = Pass.of(config)
    if config.model.has_decoder:  # the tests' batches have targets of a length of their own
        written = config.train.micro_batch * WRITTEN
        one = replace(one, written=written, predicted=written)
    (stage,) = stages_of(config.model, config.parallel)
    planned = sum(
        kind.count * kept_by_layer(stack, one, kind).under(config.model.recompute)
        for stack in config.model.stacks()
        for kind in stage.layers_of(stack)
    )
    assert (sizes[4] - sizes[2]) / 2 == pytest.approx(planned / config.model.layers, rel=0.05)


def test_layers_below_all_that_learns_keep_nothing(ranks, tmp_path):
    sizes = {}
    for frozen in ("layers.0-1", "layers.0-2"):
        config = configure(1, train__freeze=("embeddings", frozen), train__micro_batch=2, run__root=str(tmp_path))
        (sizes[frozen],) = ranks.run(1, kept_case, config)
        (stage,) = stages_of(config.model, config.parallel, config.train.freeze)
        (stack,) = config.model.stacks()
        kinds = stage.layers_of(stack)
        assert sum(kind.count for kind in kinds if not kind.runs_backward) == int(frozen[-1]) + 1
    one = Pass.of(config)
    assert sizes["layers.0-1"] - sizes["layers.0-2"] == pytest.approx(kept_by_layer(stack, one).whole, rel=0.05)
