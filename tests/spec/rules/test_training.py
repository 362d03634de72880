import pytest

from tests.spec.broken import problems


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train__stop_at": 11}, ["train.stop_at = 11", "train.steps = 10"]),
        (
            {"schedule__warmup_steps": 1, "schedule__warmup_ratio": 0.1},
            ["schedule.warmup_steps = 1", "schedule.warmup_ratio = 0.1", "set the other to null"],
        ),
        ({"schedule__warmup_steps": 11}, ["schedule.warmup_steps = 11 exceeds train.steps = 10"]),
        (
            {"schedule__name": "wsd", "schedule__decay_ratio": 0.5, "schedule__warmup_steps": 6},
            ["schedule.decay_ratio = 0.5 (5 steps)", "warm-up of 6 steps", "train.steps = 10"],
        ),
        ({"schedule__power": 2.0}, ["schedule.power", "schedule.name = 'cosine'", "polynomial"]),
        ({"schedule__decay_ratio": 0.2}, ["schedule.decay_ratio", "wsd"]),
        ({"schedule__name": "constant", "schedule__min_lr_ratio": 0.1}, ["schedule.min_lr_ratio", "'constant'"]),
        ({"precision__initial_loss_scale": 2.0}, ["precision.initial_loss_scale = 2.0 has no effect", "'fp32'"]),
        ({"precision__name": "bf16", "precision__tf32": True}, ["precision.tf32 = true has no effect", "'bf16'"]),
        (
            {"precision__name": "fp16", "precision__min_loss_scale": 2.0**20},
            ["precision.min_loss_scale = 1.04858e+06 exceeds precision.initial_loss_scale = 65536"],
        ),
        ({"train__eval_every": 5, "train__eval_samples": 0}, ["train.eval_every = 5", "train.eval_samples = 0"]),
        ({"track__to": ["wandb", "wandb"]}, ["track.to = ['wandb', 'wandb'] names a tracker twice"]),
        ({"track__wandb_mode": "online"}, ["track.wandb_mode = 'online' has no effect with track.to = []"]),
        ({"run__name": "a/b"}, ["run.name = 'a/b' cannot name a directory", "run.root"]),
        ({"run__name": ""}, ["run.name = '' cannot name a directory"]),
        ({"run__name": ".."}, ["run.name = '..' cannot name a directory"]),
        ({"run__dir": "~/runs"}, ["run.dir = '~/runs' begins with ~", "$HOME/runs"]),
        ({"data__path": " "}, ["data.path = ' ' is empty"]),
        ({"train__resume": "latest"}, ["train.resume = 'latest' is neither auto nor none", "./latest"]),
        ({"train__resume": ""}, ["train.resume = '' is empty"]),
        ({"train__heal": {"most": 5}}, ["train.heal.most = 5 has no effect with train.heal.mode = 'warn'"]),
        (
            {"train__observe": {"parts_every": 0, "slow_share": 0.1}},
            ["train.observe.slow_share = 0.1 has no effect with train.observe.parts_every = 0"],
        ),
        ({"train__observe": {"parts_every": 4}}, ["parts_steps = 5 exceeds train.observe.parts_every = 4"]),
        (
            {"train__observe": {"replicas_every": 0, "on_mismatch": "stop"}},
            ["train.observe.on_mismatch = 'stop' has no effect with train.observe.replicas_every = 0"],
        ),
        ({"train__profile": {"steps": [5]}}, ["train.profile.steps = [5] names no steps of this run"]),
        ({"train__profile": {"steps": [12, 10]}}, ["train.profile.steps = [12, 10] names no steps"]),
        ({"train__profile": {"ranks": [7]}}, ["train.profile.ranks names [7]"]),
        ({"train__heal": {"mode": "on"}}, ["goes back to checkpoints", "checkpoint.every = 0"]),
        (
            {"train__heal": {"mode": "on", "rate_steps": 9}, "checkpoint__every": 5},
            ["train.heal.rate_steps = 9 has no effect with train.heal.rate = 1"],
        ),
        (
            {"train__heal": {"memory_every": 5}},
            ["train.heal.memory_every = 5 has no effect with train.heal.mode = 'warn'"],
        ),
        (
            {"train__heal": {"mode": "on", "memory_every": 2, "before": 3}, "checkpoint__every": 5},
            ["train.heal.memory_every = 2", "the train.heal.before = 3 steps that are gone back from: give at least 3"],
        ),
        (
            {"train__heal": {"mode": "on", "memory_every": 6}, "checkpoint__every": 5},
            ["train.heal.memory_every = 6", "more rarely than checkpoint.every = 5", "give fewer steps, or 0"],
        ),
        (
            {
                "train__heal": {"mode": "on", "memory_every": 5},
                "checkpoint__every": 5,
                "engine__name": "deepspeed",
                "engine__deepspeed": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            },
            ["train.heal.memory_every = 5", "leave out offload_optimizer"],
        ),
        ({"data__skip_samples": [[0, 2**53 + 1]]}, ["[0, 9007199254740993] goes past 9,007,199,254,740,992 samples"]),
        ({"data__skip_samples": [[0, 8], [9, 9]]}, ["data.skip_samples[1] = [9, 9] holds no sample"]),
        ({"data__split": [0.9, 0.2, 0.1]}, ["data.split = [0.9, 0.2, 0.1] sums to 1.2"]),
        ({"data__split": [0, 0.5, 0.5]}, ["data.split = [0.0, 0.5, 0.5]", "of training, more than 0"]),
        ({"data__split": [1.2, -0.2, 0]}, ["data.split = [1.2, -0.2, 0.0]", "shares are 0 or more"]),
    ],
)
def test_one_sentence_with_key_value_and_remedy(changes, parts):
    (problem,) = problems(**changes)
    for part in parts:
        assert part in problem


@pytest.mark.parametrize(
    "changes",
    [
        {"train__stop_at": 10},
        {"schedule__warmup_steps": 10},
        {"schedule__name": "wsd", "schedule__decay_ratio": 0.5, "schedule__warmup_ratio": 0.5},
        {"schedule__name": "polynomial", "schedule__power": 2.0},
        {"precision__name": "fp16", "precision__initial_loss_scale": 2.0},
        {"train__eval_samples": 0},
        {"track__to": ["wandb", "tensorboard"], "track__wandb_mode": "online"},
        {"train__resume": "./latest"},
        {"train__resume": "none"},
        {"data__split": [0.7, 0.2, 0.1]},
        {"data__split": [1, 0, 0]},
    ],
)
def test_what_fits_passes(changes):
    assert problems(**changes) == []
