"""What a rehearsal says of a world that is not there is what the same world says on gloo: every collective and message of a
step and a save, in order, with group, shape, type and place; and the memory that tensors hold."""

from collections.abc import Sequence
from typing import Any

import pytest
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from dist_plm.config.decode import decode
from dist_plm.core.errors import ConfigError
from dist_plm.distributed.device import choose
from dist_plm.plan.rehearsal.all_ranks import problems_of
from dist_plm.plan.rehearsal.fake_world import answer_of
from dist_plm.plan.rehearsal.rank_rehearsal import RankRehearsal, rehearse_on, rehearse_rank
from dist_plm.plan.rehearsal.recorder import CallRecorder
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.train.data import open_run
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_grids import GRIDS
from tests.ranks.training import configure, few_microbatches, groups_of
from tests.train.finetuning import SETTINGS, make_rows

pytestmark = pytest.mark.ranks

BF16 = {"precision__name": "bf16"}
DEEPSPEED = {"engine__name": "deepspeed"}
LLAMA = {
    "model__position": "rotary",
    "model__norm": "rmsnorm",
    "model__activation": "swiglu",
    "model__bias": False,
    "model__tied_embeddings": False,
}
#: Name -> grid and changes: each axis and schedule, each stage of ZeRO, each family.
CASES = {
    **{f"megatron_{name}": (name, {"engine__zero_stage": 1}) for name in GRIDS},
    "megatron0": ("data2_tensor2", {}),
    "context": ("data4", {"parallel__context": 2, "engine__zero_stage": 1}),
    "context_deepspeed": ("data4", {**DEEPSPEED, "parallel__context": 2, "engine__zero_stage": 2}),
    "context_t5": (
        "data4",
        {"model__family": "t5", "objective__name": "span", "model__position": "relative", "parallel__context": 2},
    ),
    "overlap": ("data2_pipeline2", {"engine__zero_stage": 1, "engine__overlap_grad_reduce": True, **BF16}),
    "fp16": ("tensor2", {"precision__name": "fp16"}),
    "recompute": ("tensor2_sequence", {"model__recompute": "full"}),
    "dropout": ("tensor2", {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1}),
    "lamb": ("data2_tensor2", {"engine__zero_stage": 1, "optim__name": "lamb"}),
    "muon": ("tensor2_pipeline2", {"optim__name": "muon"}),
    "muon1": ("data2_tensor2", {"engine__zero_stage": 1, "optim__name": "muon"}),
    "muon_deepspeed0": ("pipeline4", {**DEEPSPEED, "engine__zero_stage": 0, "optim__name": "muon"}),
    "lamb_by_depth_deepspeed1": (
        "pipeline4",
        {**DEEPSPEED, "engine__zero_stage": 1, "optim__name": "lamb", "optim__layer_decay": 0.5},
    ),
    "adapters": ("data2_tensor2", {"engine__zero_stage": 1, "model__lora": {"rank": 4}, **BF16}),
    "frozen": ("data2_pipeline2", {"engine__zero_stage": 1, "train__freeze": ("embeddings", "layers.0-1"), **BF16}),
    "frozen_deepspeed3": ("data2", {**DEEPSPEED, "engine__zero_stage": 3, "train__freeze": ("layers.1-2",)}),
    "deepspeed0": ("data2_tensor2", {**DEEPSPEED, "engine__zero_stage": 0}),
    "deepspeed1": ("data2_pipeline2", {**DEEPSPEED, "engine__zero_stage": 1}),
    "deepspeed1_bf16": ("data2_tensor2", {**DEEPSPEED, "engine__zero_stage": 1, **BF16}),
    "deepspeed2": ("data2", {**DEEPSPEED, "engine__zero_stage": 2}),
    "deepspeed3_bf16": ("data2", {**DEEPSPEED, "engine__zero_stage": 3, **BF16}),
    "fp8": ("data2_tensor2_sequence", {"precision__name": "fp8", "engine__zero_stage": 1}),
    "llama": ("tensor2", LLAMA),
    "bert": ("data2_tensor2", {"model__family": "bert", "objective__name": "mlm_nsp", "model__segments": 2}),
    "bert_muon_frozen": (
        "data2_tensor2",
        {
            "model__family": "bert",
            "objective__name": "mlm_nsp",
            "model__segments": 2,
            "engine__zero_stage": 1,
            "optim__name": "muon",
            "train__freeze": ("layers.0-1",),
        },
    ),
    "roberta": ("pipeline2", {"model__family": "roberta", "objective__name": "mlm"}),
    "t5": ("tensor2", {"model__family": "t5", "objective__name": "span", "model__position": "relative"}),
}
ALL_AXES = {"parallel__tensor": 2, "parallel__pipeline": 2}
TENSOR4 = {"parallel__tensor": 4, "parallel__sequence_parallel": True}
VIRTUAL = {**ALL_AXES, "parallel__sequence_parallel": True, "parallel__virtual_pipeline": 2}
#: Name -> changes, on 8 ranks: axes together, and each by itself.
EIGHT = {
    "axes0": ALL_AXES,
    "axes1": {**ALL_AXES, "engine__zero_stage": 1},
    "virtual_overlap": {**VIRTUAL, "engine__zero_stage": 1, "engine__overlap_grad_reduce": True, **BF16},
    "virtual_muon": {**VIRTUAL, "engine__zero_stage": 1, "optim__name": "muon"},
    "context_axes": {**TENSOR4, "parallel__tensor": 2, "parallel__context": 2, "engine__zero_stage": 1},
    "context_pipeline": {"parallel__context": 4, "parallel__pipeline": 2, "model__recompute": "full"},
    "data8_lamb": {"engine__zero_stage": 1, "optim__name": "lamb"},
    "tensor8": {"parallel__tensor": 8, "parallel__sequence_parallel": True, "model__heads": 8},
    "pipeline8": {"parallel__pipeline": 8, "model__layers": 8},
    "data4_pipeline2_frozen": {"parallel__pipeline": 2, "engine__zero_stage": 1, "train__freeze": ("layers.0-2",)},
    "tensor4_adapters": {**TENSOR4, "model__lora": {"rank": 4}, "engine__zero_stage": 1, **BF16},
    "tensor4_fp8": {**TENSOR4, "precision__name": "fp8", "engine__zero_stage": 1},
    "llama": {**VIRTUAL, **LLAMA, "engine__zero_stage": 1},
    "bert": {**ALL_AXES, "model__family": "bert", "objective__name": "mlm_nsp", "model__segments": 2},
    "t5": {"parallel__tensor": 4, "model__family": "t5", "objective__name": "span", "model__position": "relative"},
    "deepspeed_axes0": {**DEEPSPEED, **ALL_AXES},
    "deepspeed_axes1": {**DEEPSPEED, **ALL_AXES, "engine__zero_stage": 1, **BF16},
    "deepspeed_tensor4": {**DEEPSPEED, **TENSOR4, "engine__zero_stage": 1, "optim__name": "lamb"},
    "deepspeed2": {**DEEPSPEED, "engine__zero_stage": 2, **BF16},
    "deepspeed3": {**DEEPSPEED, "engine__zero_stage": 3},
    "deepspeed3_frozen": {**DEEPSPEED, "engine__zero_stage": 3, "train__freeze": ("layers.1-2",), **BF16},
}


class CopiesForGloo(CallRecorder):
    """Gives gloo copies and waits for it: its threads let go of tensors in their own time, after who waited has gone on."""

    def say(self, func: Any, args: Sequence[Any]) -> Any:
        if func._schema.name in ("c10d::send", "c10d::recv_"):
            return super().say(func, args)
        copies = tree_map_only(Tensor, Tensor.clone, args)
        answer = super().say(func, copies)
        work = answer[-1] if isinstance(answer, tuple) else answer
        work.wait()
        for tensor, copy in zip(tree_leaves(args[0]), tree_leaves(copies[0]), strict=True):
            tensor.copy_(copy)
        return answer_of(func, args)


def recorded(world: World, config) -> RankRehearsal:
    return rehearse_on(config, groups_of(world, config), CopiesForGloo)


def rehearsed(config, world_size: int) -> dict[int, RankRehearsal]:
    choose("cpu", 0)
    return {rank: rehearse_rank(config, rank, world_size) for rank in range(world_size)}


@pytest.mark.parametrize("name", covering(list(CASES), ["deepspeed3_bf16"]))
def test_a_world_that_is_not_there_says_what_gloo_says(ranks, tmp_path, name):
    grid, changes = CASES[name]
    world_size, axes = GRIDS[grid]
    config = configure(world_size, run__root=str(tmp_path), **few_microbatches(world_size, axes | changes))
    check(ranks, config, world_size)


@pytest.mark.parametrize("name", covering(list(EIGHT), ["virtual_overlap"]))
def test_eight_ranks_that_are_not_there_say_what_gloo_says(ranks, tmp_path, name):
    check(ranks, configure(8, run__root=str(tmp_path), **EIGHT[name]), 8)


def check(ranks, config, world_size: int) -> None:
    fake, real = rehearsed(config, world_size), ranks.run(world_size, recorded, config, shared_memory=False)
    assert problems_of(config, fake, world_size) == []
    for rank, one in enumerate(real):
        assert one.failure is None
        assert fake[rank].ledger == one.ledger
        assert fake[rank].boxes == one.boxes
        # A few numbers that a step reads on the host are counted in one of them alone.
        assert abs(fake[rank].peak_bytes - one.peak_bytes) < 2048


@pytest.mark.parametrize("name", ["tensor2", pytest.param("pipeline4", marks=pytest.mark.slow)])
def test_what_depends_on_numbers_of_others_is_refused(tmp_path, name):
    world_size, axes = GRIDS[name]
    muon = {**DEEPSPEED, "engine__zero_stage": 1, "optim__name": "muon"}
    config = configure(world_size, run__root=str(tmp_path), **axes, **muon)
    with pytest.raises(ConfigError, match="'muon' under DeepSpeed's ZeRO 1 to 3 is such a case"):
        rehearsed(config, world_size)


SIZES = {"layers": 2, "hidden": 32, "heads": 2, "init_std": 0.1}
GPT = {"family": "gpt", **SIZES}
T5 = {"family": "t5", "position": "relative", **SIZES}
#: Name -> grid and sections that are changed.
TASKS = {
    "classify": ("data2_tensor2", {"task": {"name": "classify"}}),
    "tag_adapters": ("tensor2", {"task": {"name": "tag"}, "model": {"lora": {"rank": 4}}}),
    "regress_frozen": ("data2", {"task": {"name": "regress"}, "train": {"freeze": ["layers.0"]}}),
    "choice": ("pipeline2", {"task": {"name": "choice"}}),
    "qa": ("data2_pipeline2", {"task": {"name": "qa"}}),
    "chat_adapters": ("data2_tensor2", {"task": {"name": "chat"}, "model": {**GPT, "lora": {"rank": 4}}}),
    "seq2seq": ("data2_tensor2", {"task": {"name": "seq2seq"}, "model": T5}),
    "seq2seq_frozen": ("tensor2", {"task": {"name": "seq2seq"}, "model": T5, "train": {"freeze": ["encoder"]}}),
    "tag_deepspeed3": ("data2", {"task": {"name": "tag"}, "engine": {"name": "deepspeed", "zero_stage": 3}}),
    "qa_deepspeed2_adapters": (
        "data2",
        {
            "task": {"name": "qa"},
            "engine": {"name": "deepspeed", "zero_stage": 2},
            "model": {"lora": {"rank": 4}},
            "precision": {"name": "bf16"},
        },
    ),
    "classify_axes_frozen": (
        "data2_tensor2_pipeline2",
        {"task": {"name": "classify"}, "train": {"freeze": ["layers.0"]}, "engine": {"zero_stage": 1}},
    ),
}
COLUMNS = {
    "regress": {"label": "number"},
    "choice": {"choices": "options", "label": "right"},
    "seq2seq": {"source": "text", "target": "text_b"},
}


@pytest.mark.parametrize("name", covering(list(TASKS), ["tag_adapters"]))
def test_a_fine_tuning_run_says_what_gloo_says(ranks, tmp_path, name):
    grid, changes = TASKS[name]
    world_size, axes = {**GRIDS, "data2_tensor2_pipeline2": (8, ALL_AXES)}[grid]
    rows = make_rows(tmp_path)
    data = {"train": str(rows / "train.jsonl"), "tokenizer": str(rows / "vocabulary"), "sequence_length": 32}
    data["columns"] = COLUMNS.get(changes["task"]["name"], {})
    parallel = {key.removeprefix("parallel__"): value for key, value in axes.items()}
    sections = {**SETTINGS, "parallel": parallel, "data": SETTINGS["data"] | data, "task": changes["task"]}
    for section in ("model", "train", "engine", "precision"):
        changed = changes.get(section, {})
        sections[section] = changed if "family" in changed else SETTINGS[section] | changed
    sections["run"] = {"name": "run", "root": str(tmp_path)}
    config, _ = open_run(decode(FinetuneConfig, sections), world_size)
    check(ranks, config, world_size)
