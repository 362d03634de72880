import pytest

from tests.spec.broken import problems

DEEPSPEED = {"engine__name": "deepspeed"}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"engine__zero_stage": 2}, ["engine.zero_stage = 2", "'megatron'", "Megatron-FSDP", "engine=deepspeed"]),
        ({"engine__zero_stage": 3}, ["engine.zero_stage = 3", "engine.zero_stage=1"]),
        (
            {**DEEPSPEED, "engine__overlap_grad_reduce": True},
            ["engine.overlap_grad_reduce = true is not a setting of engine.name = 'deepspeed', but of megatron"],
        ),
        (
            {"engine__overlap_param_gather": True, "engine__overlap_grad_reduce": True, "engine__zero_stage": 0},
            ["engine.overlap_param_gather = true has nothing to gather"],
        ),
        (
            {"engine__overlap_param_gather": True, "engine__overlap_grad_reduce": False},
            ["follows the buckets of engine.overlap_grad_reduce"],
        ),
        (
            {"engine__deepspeed": {"zero_optimization": {"overlap_comm": True}}},
            ["engine.deepspeed = ", "is not a setting of engine.name = 'megatron', but of deepspeed"],
        ),
        (
            {**DEEPSPEED, "precision__name": "fp16", "cluster__device": "cpu"},
            ["precision.name = 'fp16' is refused by DeepSpeed", "cluster.device = 'cpu'"],
        ),
        (
            {**DEEPSPEED, "precision__name": "fp16", "engine__zero_stage": 0},
            ["engine.zero_stage = 0 with precision.name = 'fp16'", "engine.zero_stage=1"],
        ),
        (
            {**DEEPSPEED, "precision__name": "fp16", "precision__initial_loss_scale": 1000.0},
            ["precision.initial_loss_scale = 1000 is not a power of two"],
        ),
    ],
)
def test_one_sentence_with_key_value_and_remedy(changes, parts):
    (problem,) = problems(**changes)
    for part in parts:
        assert part in problem


@pytest.mark.parametrize("stage", [2, 3])
def test_gradients_are_not_sharded_under_a_pipeline(stage):
    (problem,) = problems(world_size=2, **DEEPSPEED, engine__zero_stage=stage, parallel__pipeline=2)
    assert f"engine.zero_stage = {stage} does not work with parallel.pipeline = 2" in problem
    assert "engine.zero_stage=1" in problem


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_of_deepspeed_is_allowed_without_one(stage):
    assert problems(world_size=4, **DEEPSPEED, engine__zero_stage=stage, parallel__tensor=2) == []


def offload(**devices: str) -> dict:
    return {"zero_optimization": {f"offload_{of}": {"device": device} for of, device in devices.items()}}


@pytest.mark.parametrize(
    ("stage", "devices", "key", "needed"),
    [
        (0, {"optimizer": "cpu"}, "offload_optimizer.device = 'cpu'", 1),
        (2, {"optimizer": "nvme"}, "offload_optimizer.device = 'nvme'", 3),
        (2, {"param": "cpu"}, "offload_param.device = 'cpu'", 3),
    ],
)
def test_offload_that_deepspeed_would_not_do_is_refused(stage, devices, key, needed):
    (problem,) = problems(**DEEPSPEED, engine__zero_stage=stage, engine__deepspeed=offload(**devices))
    assert f"engine.deepspeed.zero_optimization.{key} has no effect with engine.zero_stage = {stage}" in problem
    assert f"set engine.zero_stage={needed}" in problem


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("cpu_offload", "offload_optimizer.device=cpu instead"),
        ("cpu_offload_param", "offload_param.device=cpu instead"),
        ("cpu_offload_use_pin_memory", "offload_optimizer.pin_memory=true"),
    ],
)
def test_old_names_of_offload_are_refused(key, instead):
    settings = {**DEEPSPEED, "engine__zero_stage": 3}
    (problem,) = problems(**settings, engine__deepspeed={"zero_optimization": {key: True}})
    assert f"engine.deepspeed.zero_optimization.{key} = true is a deprecated setting of DeepSpeed" in problem
    assert f"set engine.deepspeed.zero_optimization.{instead}" in problem
    assert problems(**settings, engine__deepspeed={"zero_optimization": {key: None}}) == []


def test_offload_passes_where_it_acts():
    for stage, devices in (
        (1, {"optimizer": "cpu"}),
        (3, {"optimizer": "nvme", "param": "nvme"}),
        (0, {"param": "none"}),
    ):
        assert problems(**DEEPSPEED, engine__zero_stage=stage, engine__deepspeed=offload(**devices)) == []


def test_buckets_are_reduced_beside_the_backward_pass_from_stage_2_on():
    beside = {"zero_optimization": {"overlap_comm": True}}
    (problem,) = problems(**DEEPSPEED, engine__zero_stage=1, engine__deepspeed=beside)
    assert "overlap_comm = true is refused by DeepSpeed with engine.zero_stage = 1" in problem
    assert problems(**DEEPSPEED, engine__zero_stage=2, engine__deepspeed=beside) == []


@pytest.mark.parametrize("name", ["lamb", "adafactor"])
def test_optimizers_of_whole_layers_stay_in_memory(name):
    settings = {**DEEPSPEED, "engine__zero_stage": 3, "optim__name": name}
    (problem,) = problems(**settings, engine__deepspeed=offload(optimizer="nvme"))
    assert f"offload_optimizer.device = 'nvme' does not work with optim.name = '{name}'" in problem
    assert problems(**settings, engine__deepspeed=offload(optimizer="cpu", param="nvme")) == []
