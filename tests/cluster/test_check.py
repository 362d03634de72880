from dataclasses import fields
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dist_plm.cluster.check
from dist_plm.cluster.check import check, check_here, run_of
from dist_plm.cluster.submission.asked_of_slurm import limit_seconds, ranks_per_node, world_size
from dist_plm.core.errors import ConfigError, DataError
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from tests.cluster.make import submission

natural = st.integers(0, 99)


def problems(**changes) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        check(submission(**changes))
    return refused.value.problems


def test_the_run_is_finalised_for_the_ranks_of_its_nodes():
    asked = submission(nodes=2, cluster__ranks_per_node=2, parallel__tensor=2)
    checked = check(asked)
    assert world_size(checked.nodes, checked.cluster) == 4
    assert checked.parallel.data == 2
    assert checked.run.dir == "runs/test"
    assert run_of(checked) == finalize(run_of(asked), world_size=4, vocab_size=None)
    assert type(run_of(checked)) is PretrainConfig
    assert {f.name for f in fields(checked)} - {f.name for f in fields(PretrainConfig)} == {
        "command",
        "nodes",
        "min_nodes",
        "submit",
    }


def test_ranks_of_a_node_are_those_given_else_its_gpus_else_one():
    assert ranks_per_node(submission().cluster) == 1
    assert ranks_per_node(submission(cluster__gpus_per_node=8).cluster) == 8
    assert ranks_per_node(submission(cluster__gpus_per_node=8, cluster__ranks_per_node=4).cluster) == 4


@given(days=natural, hours=natural, minutes=natural, seconds=natural)
def test_time_limits_in_all_of_slurms_forms(days, hours, minutes, seconds):
    of_day = 3600 * hours + 60 * minutes + seconds
    assert limit_seconds(f"{minutes}") == 60 * minutes
    assert limit_seconds(f"{minutes}:{seconds}") == 60 * minutes + seconds
    assert limit_seconds(f"{hours}:{minutes:02}:{seconds:02}") == of_day
    assert limit_seconds(f"{days}-{hours}") == 86400 * days + 3600 * hours
    assert limit_seconds(f"{days}-{hours}:{minutes}") == 86400 * days + 3600 * hours + 60 * minutes
    assert limit_seconds(f"{days}-{hours}:{minutes}:{seconds}") == 86400 * days + of_day


@pytest.mark.parametrize("text", ["", "1h", "24:00:00:00", "-1", "1-", "1.5", "1:00 ", "infinite"])
def test_what_is_no_time_limit(text):
    assert limit_seconds(text) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cluster__time": "1h"}, ["cluster.time = '1h' is not a time limit", "24:00:00"]),
        ({"cluster__time": "5:00"}, ["cluster.time = '5:00' leaves no time", "cluster.signal_seconds = 300"]),
        ({"cluster__device": "cuda"}, ["cluster.gpus_per_node = 0 asks Slurm for no GPU", "cluster=example"]),
        (
            {"cluster__gpus_per_node": 2, "cluster__ranks_per_node": 4},
            ["cluster.ranks_per_node = 4 exceeds cluster.gpus_per_node = 2", "set cluster.ranks_per_node=2"],
        ),
        ({"cluster__gpu_type": "a100"}, ["cluster.gpu_type = 'a100' has no effect"]),
        ({"cluster__options": ["exclusive"]}, ["'exclusive', which is not of the form --option"]),
        ({"cluster__options": ["--nodes=4"]}, ["--nodes is given already"]),
        ({"cluster__options": ["--comment=a\nrm -r"]}, ["is not of the form"]),
        ({"cluster__partition": "gpu; rm"}, ["cluster.partition = 'gpu; rm' is not allowed"]),
        ({"cluster__memory": "lots"}, ["cluster.memory = 'lots' is not an amount of memory"]),
        ({"cluster__scratch": "~/tmp"}, ["cluster.scratch", "$HOME/tmp"]),
        ({"cluster__container": "run 'x"}, ["cluster.container", "cannot be read by a shell"]),
        ({"cluster__container": " "}, ["cluster.container = ' ' is empty"]),
        ({"cluster__time": "٢٤:٠٠:٠٠"}, ["cluster.time = '٢٤:٠٠:٠٠' is not a time limit"]),
        ({"cluster__time": "9" * 400}, ["is not a time limit"]),
        ({"cluster__time": "24:00:00\n"}, [r"cluster.time = '24:00:00\n' is not a time limit"]),
        ({"cluster__memory": "٢٠٠G"}, ["cluster.memory = '٢٠٠G' is not an amount of memory"]),
        ({"cluster__memory": "200G\n"}, ["is not an amount of memory"]),
        ({"cluster__account": "lab\u0660"}, ["cluster.account = 'lab٠' is not allowed"]),
        ({"cluster__qos": "a\nb"}, ["cluster.qos", "is not allowed"]),
        ({"cluster__options": ["--comment=two words"]}, ["with quotes where a value has blanks"]),
        ({"cluster__options": ["--exclusive --nodes=5"]}, ["is not of the form --option"]),
        ({"cluster__options": ["--comment='a"]}, ["is not of the form --option"]),
        ({"cluster__options": ["--comment=a\u2028b"]}, ["is not of the form --option"]),
        ({"cluster__options": ["--node=5"]}, ["--nodes is given already"]),
        ({"cluster__options": ["--chd=/"]}, ["--chdir is given already"]),
        ({"cluster__scratch": '/tmp"; rm -rf x; "'}, ["is more than a path"]),
        ({"cluster__scratch": "/tmp/$(id)"}, ["is more than a path"]),
        ({"cluster__scratch": "/tmp/`id`"}, ["is more than a path"]),
        ({"cluster__scratch": "/tmp\nid"}, ["line break"]),
        ({"cluster__container": "run $(id)"}, ["is more than a command and its arguments"]),
        ({"cluster__container": "run `id`"}, ["is more than a command and its arguments"]),
        ({"cluster__container": "run\nid"}, ["is more than a command and its arguments"]),
        ({"cluster__setup": ["module load a\nrm -rf x"]}, ["which is more than a line"]),
        ({"cluster__python": "/py\nid"}, ["cluster.python", "line break"]),
        ({"nodes": 3}, ["train.global_batch = 8 is not a multiple of train.micro_batch = 2 x 3 data ranks"]),
    ],
)
def test_refuses_naming_key_value_and_remedy(changes, words):
    (problem,) = problems(**changes)
    for word in words:
        assert word in problem


def test_options_that_begin_like_others_pass():
    check(
        submission(
            cluster__options=["--gpus=2", "--mem-per-cpu=2G", "--time-min=5", "--comment='two words'", "--nodelist=a"]
        )
    )


def test_tells_all_problems_at_once():
    found = problems(nodes=3, cluster__time="1h", cluster__memory="lots", train__stop_at=11)
    assert [text.split(" = ")[0] for text in found] == [
        "cluster.time",
        "cluster.memory",
        "train.global_batch",
        "train.stop_at",
    ]


def test_gpus_may_outnumber_ranks_and_ranks_without_cuda_need_none():
    check(submission(cluster__gpus_per_node=8, cluster__ranks_per_node=4))
    check(submission(cluster__gpus_per_node=1, cluster__ranks_per_node=4, cluster__device="cpu"))


def test_a_corpus_that_is_not_there_is_told_unless_it_may_be_elsewhere(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        check(submission(check_data=True, data__path=str(tmp_path / "nowhere")))
    check(submission(check_data=False, data__path=str(tmp_path / "nowhere")))


FP16 = {"engine__name": "deepspeed", "engine__zero_stage": 1, "precision__name": "fp16"}


@pytest.mark.parametrize("gpu", [(), ("nvidia0", "nvidiactl"), ("dxg",), ("kfd",)])
def test_a_device_that_is_left_to_the_machine_is_this_ones(monkeypatch, tmp_path, gpu):
    for name in gpu:
        (tmp_path / name).touch()
    monkeypatch.setattr(dist_plm.cluster.check, "DEVICES", tmp_path)
    run = run_of(submission(cluster__device="auto", **FP16))
    if gpu:
        check_here(run, 1)
        return
    with pytest.raises(
        ConfigError, match=r"fp16' is refused by DeepSpeed .*there is no GPU here.*cluster\.device=cuda checks"
    ):
        check_here(run, 1)
    check_here(run_of(submission(cluster__device="cuda", **FP16)), 1)
    check_here(run_of(submission(cluster__device="auto")), 1)


def test_what_deepspeed_accepted_it_is_not_asked_again(tmp_path, monkeypatch):
    """But for other keys it is, and a refusal is never kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []
    theirs = import_module("dist_plm.engines.deepspeed.json_schema")
    check_keys = theirs.check_keys
    monkeypatch.setattr(theirs, "check_keys", lambda keys: (asked.append(dict(keys)), check_keys(keys)))
    given = {"engine__name": "deepspeed", "engine__zero_stage": 2}
    for changes in ({"overlap_comm": True}, {"overlap_comm": True}, {"allgather_partitions": False}):
        check(submission(**given, engine__deepspeed={"zero_optimization": changes}))
    assert len(asked) == 2
    for _ in range(2):
        (problem,) = problems(**given, engine__deepspeed={"zero_optimization": {"overlap_com": True}})
        assert "did you mean overlap_comm" in problem
    assert len(asked) == 4
