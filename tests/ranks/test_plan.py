"""What a plan says of memory is what real ranks hold: weights, gradients, masters and moments, and what layers keep."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from dist_plm.models.build import build_model
from dist_plm.plan.activations import Pass, kept_by_layer
from dist_plm.plan.memory import StageMemory, memory_by_stage
from dist_plm.plan.rank_tensors import stages_of
from dist_plm.spec.freezing import frozen_tensors
from dist_plm.spec.optimizers import OPTIMIZERS
from dist_plm.spec.tasks.choice import ChoiceConfig
from dist_plm.spec.tasks.classify import ClassifyConfig
from tests.ranks.held_bytes import Held, hold_case, hold_cases, storage
from tests.ranks.labelled import CHOICES, TEXT_LENGTH, configured, labelled_batch
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_grids import GRIDS, MODELS
from tests.ranks.training import LENGTH, batch_of, configure, groups_of

pytestmark = pytest.mark.ranks

DEEPSPEED = {"engine__name": "deepspeed"}
BF16 = {"precision__name": "bf16"}
#: Name -> grid and changes: each engine and stage, each optimizer, each axis.
CASES = {
    "megatron0": ("data2", {}),
    "megatron0_bf16": ("tensor2_pipeline2", BF16),
    "megatron1": ("data2_tensor2", {"engine__zero_stage": 1}),
    "context": ("data4", {"parallel__context": 2, "engine__zero_stage": 1, **BF16}),
    "context_bert": (
        "data4",
        {"model__family": "bert", "objective__name": "mlm_nsp", "model__segments": 2, "parallel__context": 4},
    ),
    "context_t5": (
        "data2_tensor2",
        {"model__family": "t5", "objective__name": "span", "model__position": "relative", "parallel__context": 2},
    ),
    "context_deepspeed3": ("data4", {**DEEPSPEED, "parallel__context": 2, "engine__zero_stage": 3}),
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
    "deepspeed2_two_buckets": (
        "data2",
        {**DEEPSPEED, "engine__zero_stage": 2, "engine__deepspeed": {"zero_optimization": {"overlap_comm": True}}},
    ),
    "deepspeed2_scattered": (
        "data2",
        {
            **DEEPSPEED,
            "engine__zero_stage": 2,
            "engine__deepspeed": {"zero_optimization": {"contiguous_gradients": False}},
        },
    ),
    "deepspeed3_scattered": (
        "data2",
        {
            **DEEPSPEED,
            "engine__zero_stage": 3,
            "engine__deepspeed": {"zero_optimization": {"contiguous_gradients": False}},
        },
    ),
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


def differences(config, found: list[Held]) -> Iterator[str]:
    """Names what ranks hold that is not as planned."""
    holding = config.engine.holding(config.precision, config.parallel.data * config.parallel.context)
    for planned in memory_by_stage(config):
        here = [held for held in found if held.stage == planned.stage]
        for term, over, element in (
            ("weights", holding.weights_over, holding.weights),
            ("gradients", holding.gradients_over, holding.gradients),
            ("masters", holding.masters_over, 4),
            ("moments", holding.masters_over, 1),
        ):
            sizes, foreseen = [getattr(held, term) for held in here], planned.terms[term]
            # Shards are cut unevenly, but add up; planned is the share of the rank that has an element more.
            share = math.ceil(sum(sizes) / element / len(here)) * element
            if share != foreseen.low or (over == 1 and len(set(sizes)) > 1):
                yield f"{term} of stage {planned.stage} are {sizes}, not {foreseen.low}"
        yield from _differences_of_gradients(planned, holding, here)


def _differences_of_gradients(planned: StageMemory, holding, here: list[Held]) -> Iterator[str]:
    foreseen = planned.terms["gradients"]
    for held in here:
        if held.padded is not None and held.allocated != held.padded:
            yield f"{held.allocated} bytes are allocated for gradients, not {held.padded}"
        if held.padded is None and not foreseen.low <= held.allocated <= foreseen.high:
            yield f"{held.allocated} bytes are allocated for gradients, not {foreseen}"
        if held.bucket != (holding.bucket if held.gradients else 0):
            yield f"the bucket has {held.bucket} bytes, not {holding.bucket}"


@pytest.mark.parametrize(
    "name",
    covering(
        list(CASES), ["megatron1_bf16", "adafactor", "deepspeed2", "deepspeed3_bf16", "bert", "frozen", "context"]
    ),
)
def test_what_ranks_keep_of_parameters_is_planned_to_the_byte(ranks, tmp_path, name):
    world_size, changes = GRIDS[CASES[name][0]]
    config = configure(world_size, run__root=str(tmp_path), **changes, **CASES[name][1])
    assert list(differences(config, ranks.run(world_size, hold_case, config))) == []


#: What is multiplied: engines with their stages, types, families and optimizers.
STAGES = {
    "megatron0": {"engine__zero_stage": 0},
    "megatron1": {"engine__zero_stage": 1},
    **{f"deepspeed{stage}": {**DEEPSPEED, "engine__zero_stage": stage} for stage in range(4)},
}
TYPES = {"fp32": {}, "bf16": BF16, "bf16_sums": {**BF16, "precision__reduce_in_fp32": False}}
FAMILIES = {"gpt": {}, **{name: CASES[name][1] for name in ("llama", "bert", "roberta", "electra", "t5")}}
#: Engine with stage and type, which no rule of ours allows.
REFUSED = {("deepspeed0", "bf16"), ("deepspeed0", "bf16_sums")}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_every_engine_stage_type_and_family_keeps_what_is_planned(ranks, tmp_path, optimizer):
    cells = [cell for cell in itertools.product(STAGES, TYPES, FAMILIES) if cell[:2] not in REFUSED]
    configs = [
        configure(
            2,
            run__root=str(tmp_path),
            optim__name=optimizer,
            train__global_batch=2,
            **STAGES[stage],
            **TYPES[kind],
            **FAMILIES[family],
        )
        for stage, kind, family in cells
    ]
    by_rank = ranks.run(2, hold_cases, configs)
    found = {
        cell: list(differences(config, list(held)))
        for cell, config, held in zip(cells, configs, zip(*by_rank, strict=True), strict=True)
    }
    assert {cell: wrong for cell, wrong in found.items() if wrong} == {}


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
    "roberta": {"model__family": "roberta", "objective__name": "mlm"},
    "tensor": {"parallel__tensor": 2},
    "sequence": {"parallel__tensor": 2, "parallel__sequence_parallel": True},
    "context": {"parallel__context": 2},
    "context_one_key": {**MODELS["llama"], "model__kv_heads": 1, "parallel__context": 2},
    "context_selective": {**MODELS["llama"], "parallel__context": 2, "model__recompute": "selective"},
    "context_sequence": {
        "parallel__context": 2,
        "parallel__tensor": 2,
        "parallel__sequence_parallel": True,
        "precision__name": "bf16",
    },
    "context_t5": {**T5, "model__activation": "relu", "parallel__context": 2},
    "context_t5_sequence": {
        **T5,
        "model__activation": "relu",
        "parallel__context": 2,
        "parallel__tensor": 2,
        "parallel__sequence_parallel": True,
    },
    "context_full": {"parallel__context": 2, "model__recompute": "full"},
    "context_four": {**MODELS["llama"], "parallel__context": 4},
    "context_bert": {"model__family": "bert", "objective__name": "mlm", "parallel__context": 2},
    "context_fp8": {"parallel__context": 2, "precision__name": "fp8"},
    "context_electra": {
        "model__family": "electra",
        "objective__name": "rtd",
        "model__generator_heads": 2,
        "model__generator_hidden": 32,
        "parallel__context": 2,
    },
    "context_adapters": {"parallel__context": 2, "model__lora": {"rank": 4, "targets": ("query", "output")}},
    "electra": {
        "model__family": "electra",
        "objective__name": "rtd",
        "model__generator_heads": 2,
        "model__generator_hidden": 32,
    },
    "t5": {**T5, "model__activation": "relu"},
    "t5_v1_1": {**T5, "model__activation": "geglu", "model__tied_embeddings": False},
    "fp8": {"precision__name": "fp8"},
    "fp8_llama": {**MODELS["llama"], "precision__name": "fp8"},
    "fp8_t5": {**T5, "model__activation": "relu", "precision__name": "fp8"},
    "fp8_sequence": {"precision__name": "fp8", "parallel__tensor": 2, "parallel__sequence_parallel": True},
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


def kept_case(world: World, config, batch=None) -> int:
    """Bytes that autograd holds of one microbatch after its forward pass, but for parameters."""
    batch = batch_of(config, np.arange(config.train.micro_batch)) if batch is None else batch
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
        scores = chunk(batch)
    del scores
    return sum(one.untyped_storage().nbytes() for place, one in held.items() if place not in owned)


@pytest.mark.parametrize(
    "name",
    covering(
        list(LAYERS),
        ["gpt", "selective", "llama", "t5", "electra", "adapters", "fp8_sequence", "context_one_key", "context_t5"],
    ),
)
def test_what_layers_keep_is_what_autograd_holds(ranks, tmp_path, name):
    sizes, size = {}, LAYERS[name].get("parallel__tensor", 1) * LAYERS[name].get("parallel__context", 1)
    for layers in (2, 4):
        config = configure(size, model__layers=layers, train__micro_batch=2, run__root=str(tmp_path), **LAYERS[name])
        sizes[layers] = max(ranks.run(size, kept_case, config))
    one = Pass.of(config)
    if config.model.has_decoder:  # the tests' batches have targets of a length of their own
        written = config.train.micro_batch * WRITTEN // config.parallel.context
        one = replace(one, written=written, predicted=written)
    assert (sizes[4] - sizes[2]) / 2 == pytest.approx(planned_of_layer(config, one), rel=0.05)


def planned_of_layer(config, one: Pass) -> float:
    """Bytes that a layer of each stack keeps."""
    (stage,) = stages_of(config.model, config.parallel)
    planned = sum(
        kind.count * kept_by_layer(stack, one, kind).under(config.model.recompute)
        for stack in config.model.stacks()
        for kind in stage.layers_of(stack)
    )
    return planned / config.model.layers


#: Tasks of whose samples several rows are read, or written of one that is read.
CHOSEN = ChoiceConfig(num_choices=CHOICES, max_target_length=TEXT_LENGTH)
ROWS = {
    "t5_choice": ({**T5, "model__activation": "relu"}, "written_choice", CHOSEN),
    "t5_label": (
        {**T5, "model__activation": "relu"},
        "written_label",
        ClassifyConfig(labels=("a", "b", "c"), max_target_length=TEXT_LENGTH),
    ),
    "gpt_choice": ({}, "likely_choice", CHOSEN),
    "llama_choice": (MODELS["llama"], "likely_choice", CHOSEN),
    "bert_choice": (LAYERS["bert"], "choice", CHOSEN),
}


@pytest.mark.parametrize("name", list(ROWS))
def test_what_layers_keep_of_several_rows_of_a_sample_is_what_autograd_holds(ranks, tmp_path, name):
    changes, task, objective = ROWS[name]
    sizes = {}
    for layers in (2, 4):
        config = configured(1, task, model__layers=layers, train__micro_batch=2, run__root=str(tmp_path), **changes)
        batch = labelled_batch(config, task, np.arange(config.train.micro_batch))
        (sizes[layers],) = ranks.run(1, kept_case, config, batch)
    one = Pass.of(replace(config, objective=objective))
    assert (sizes[4] - sizes[2]) / 2 == pytest.approx(planned_of_layer(config, one), rel=0.05)


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
