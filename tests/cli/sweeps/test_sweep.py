import pytest

from dist_plm.cli.sweeps.sweep import SweepRun, expand
from dist_plm.core.errors import ConfigError


def labels(*overrides: str) -> list[str]:
    return [choice.label for choice in expand(overrides)]


def test_nothing_to_expand():
    assert expand(["model=gpt_tiny", "optim.betas=[0.9,0.95]"]) == [
        SweepRun(("model=gpt_tiny", "optim.betas=[0.9,0.95]"))
    ]


def test_every_combination_in_order():
    choices = expand(["optim.lr=0.1,0.2", "nodes=2", "model=a,b"])
    assert [choice.overrides for choice in choices] == [
        ("optim.lr=0.1", "nodes=2", "model=a"),
        ("optim.lr=0.1", "nodes=2", "model=b"),
        ("optim.lr=0.2", "nodes=2", "model=a"),
        ("optim.lr=0.2", "nodes=2", "model=b"),
    ]
    assert [choice.label for choice in choices] == [
        "lr=0.1-model=a",
        "lr=0.1-model=b",
        "lr=0.2-model=a",
        "lr=0.2-model=b",
    ]


def test_forms_of_several_values():
    assert labels("train.seed=range(1,4)") == ["seed=1", "seed=2", "seed=3"]
    assert labels("train.seed=choice(1,5)") == ["seed=1", "seed=5"]
    assert labels("+optim.lr=1e-4,3e-4") == ["lr=0.0001", "lr=0.0003"]


def test_labels_are_names_of_directories():
    assert labels("data.path=/a/b,/c d/e") == ["path=a_b", "path=c_d_e"]


def test_a_swept_name_needs_no_label():
    assert labels("run.name=a,b", "optim.lr=1,2") == [""] * 4
    assert labels("schedule.name=linear,cosine") == ["name=linear", "name=cosine"]


@pytest.mark.parametrize("text", ["optim.lr=interval(0,1)", "model=glob(*)"])
def test_refuses_values_that_are_not_listed(text):
    with pytest.raises(ConfigError, match="does not list its values"):
        expand([text])


def test_leaves_what_cannot_be_read_to_the_others():
    assert expand(["=", "--check"]) == [SweepRun(("=", "--check"))]


@pytest.mark.parametrize(
    "overrides",
    [["train.seed=range(0,1000000000000)"], ["a=range(0,100)", "b=range(0,100)"], [f"x{i}=1,2" for i in range(40)]],
)
def test_a_sweep_without_end_is_refused(overrides):
    with pytest.raises(ConfigError, match="more than 1,000 runs"):
        expand(overrides)
