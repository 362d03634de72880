import pytest

from tests.spec.broken import problems


@pytest.mark.parametrize(
    ("world_size", "changes", "parts"),
    [
        (6, {"parallel__tensor": 4}, ["parallel.tensor = 4", "multiple of 4 processes", "has 6", "start 8 processes"]),
        (1, {"parallel__pipeline": 2}, ["parallel.pipeline = 2", "this run has 1: start 2 processes"]),
        (8, {"parallel__data": 2, "parallel__tensor": 2}, ["parallel.data = 2", "is 4", "8 processes", "makes it 4"]),
        (1, {"parallel__context": 2}, ["parallel.context = 2", "multiple of 2 processes", "start 2 processes"]),
        (8, {"parallel__context": 8}, ["model.heads = 4", "parallel.context = 8", "parallel.context from 1, 2, 4"]),
        (
            4,
            {"parallel__context": 2, "parallel__tensor": 2, "model__heads": 2, "model__head_size": 16},
            ["model.heads = 2", "parallel.tensor = 2 x parallel.context = 2", "parallel.context from 1"],
        ),
        (
            4,
            {"parallel__context": 4, "model__heads": 12, "model__kv_heads": 6, "model__hidden": 48},
            ["model.kv_heads = 6", "parallel.context = 4", "neither divides nor is a multiple"],
        ),
        (2, {"parallel__context": 2, "data__sequence_length": 15}, ["data.sequence_length = 15", "choose 14 or 16"]),
        (
            4,
            {
                "parallel__context": 2,
                "parallel__tensor": 2,
                "parallel__sequence_parallel": True,
                "data__sequence_length": 14,
            },
            ["data.sequence_length = 14", "parallel.context = 2 x parallel.tensor = 2", "choose 12 or 16"],
        ),
        (2, {"parallel__expert": 2}, ["parallel.expert = 2 has no experts to share out", "set parallel.expert=1"]),
        (3, {"parallel__tensor": 3, "model__ffn": 9}, ["model.heads = 4", "parallel.tensor = 3", "from 1, 2, 4"]),
        (4, {"parallel__tensor": 4, "model__kv_heads": 2}, ["model.kv_heads = 2", "parallel.tensor = 4"]),
        (2, {"parallel__tensor": 2, "model__ffn": 33}, ["model.ffn = 33", "parallel.tensor = 2"]),
        (1, {"parallel__sequence_parallel": True}, ["parallel.sequence_parallel = true has no effect", "tensor = 1"]),
        (
            2,
            {"parallel__tensor": 2, "parallel__sequence_parallel": True, "data__sequence_length": 15},
            ["data.sequence_length = 15", "parallel.tensor = 2", "choose 14 or 16"],
        ),
        (2, {"parallel__pipeline": 2, "model__layers": 5}, ["model.layers = 5", "2 stages", "4 or 6 layers"]),
        (2, {"parallel__pipeline": 2, "model__layers": 5}, ["or say how many", "parallel.stage_layers=[3,2]"]),
        (
            2,
            {"parallel__pipeline": 2, "parallel__stage_layers": (2, 1)},
            [
                "parallel.stage_layers = [2, 1] gives 3 layers to 2",
                "model.layers = 4",
                "choose 2 numbers that add up to 4",
            ],
        ),
        (
            2,
            {"parallel__pipeline": 2, "parallel__virtual_pipeline": 2, "parallel__stage_layers": (3, 1)},
            ["parallel.stage_layers = [3, 1]", "to 2 stages", "parallel.virtual_pipeline = 2 = 4 stages"],
        ),
        (
            3,
            {"parallel__pipeline": 3, "parallel__stage_layers": (2, 0, 2)},
            [
                "parallel.stage_layers = [2, 0, 2] gives no layer to a stage in the middle",
                "only the first",
                "and the last",
            ],
        ),
        (2, {"parallel__pipeline": 2, "model__layers": 1}, ["parallel.stage_layers=[1,0]"]),
        (1, {"parallel__stage_layers": (4,)}, ["parallel.stage_layers = [4] has no effect", "parallel.pipeline = 1"]),
        (
            2,
            {"parallel__pipeline": 2, "parallel__virtual_pipeline": 4},
            ["model.layers = 4", "parallel.virtual_pipeline = 4 = 8 stages", "choose 8 layers"],
        ),
        (1, {"parallel__virtual_pipeline": 2}, ["parallel.virtual_pipeline = 2 needs parallel.pipeline of 2 or more"]),
        (3, {}, ["train.global_batch = 8", "micro_batch = 2 x 3 data ranks = 6", "global_batch=6 or 12"]),
        (8, {}, ["train.global_batch = 8", "8 data ranks = 16", "global_batch=16, or train.micro_batch=1"]),
        (1, {"train__micro_batch": 10**12}, ["train.global_batch = 8", "or train.micro_batch=8"]),  # told at once
        (
            2,
            {"parallel__pipeline": 2, "parallel__virtual_pipeline": 2, "train__global_batch": 6},
            ["parallel.virtual_pipeline = 2", "6 / 2 is 3", "train.global_batch=4 or 8"],
        ),
        (
            1,
            {"engine__overlap_param_gather": True, "engine__overlap_grad_reduce": False},
            ["overlap_param_gather = true follows", "set both to true"],
        ),
        (
            1,
            {"engine__overlap_param_gather": True, "engine__overlap_grad_reduce": True, "engine__zero_stage": 0},
            ["engine.overlap_param_gather = true has nothing to gather with engine.zero_stage = 0"],
        ),
    ],
)
def test_one_sentence_with_key_value_and_remedy(world_size, changes, parts):
    (problem,) = problems(world_size=world_size, **changes)
    for part in parts:
        assert part in problem


@pytest.mark.parametrize(
    ("world_size", "changes"),
    [
        (4, {"parallel__tensor": 2, "parallel__pipeline": 2, "parallel__sequence_parallel": True}),
        (2, {"parallel__pipeline": 2, "parallel__virtual_pipeline": 2}),
        (4, {"parallel__data": 2, "parallel__tensor": 2, "model__kv_heads": 2}),
        (4, {"engine__overlap_param_gather": True, "engine__overlap_grad_reduce": True}),
    ],
)
def test_what_fits_passes(world_size, changes):
    assert problems(world_size=world_size, **changes) == []
