import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from dist_plm.cli.app import load
from dist_plm.cli.compose import compose
from dist_plm.cli.search_path import CONF, OWN, SearchPath
from dist_plm.config.origins import trace
from dist_plm.core.errors import ConfigError
from dist_plm.spec.schema import PlanConfig, PretrainConfig
from dist_plm.spec.schema_finetune import FinetuneConfig, FinetuneSubmissionConfig
from tests.experiments import FINETUNES

EXPERIMENTS = [name for name in OWN.choices("experiment") if name not in FINETUNES]


def without_alternatives(values):
    """Ours takes back the other of two alternatives; Hydra has no such notion."""
    schedule = {k: v for k, v in values["schedule"].items() if not k.startswith("warmup")}
    return {**values, "schedule": schedule}


@pytest.mark.parametrize("experiment", [None, *EXPERIMENTS])
def test_the_values_are_those_that_hydra_composes(experiment):
    overrides = ["data.path=x", "optim.lr=3e-4", "checkpoint.signals=[SIGINT,SIGTERM]", "run.name='1'"]
    overrides += [f"experiment={experiment}"] if experiment else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        reference = OmegaConf.to_container(hydra_compose("pretrain", overrides), resolve=True)
    composition = compose("pretrain", overrides)
    assert composition.problems == []
    assert without_alternatives(composition.values) == without_alternatives(reference)


def test_several_choices_of_a_group_join_their_lists():
    assert compose("pretrain", ["track=[wandb,tensorboard]"]).values["track"]["to"] == ["wandb", "tensorboard"]
    assert compose("pretrain", ["track=[tensorboard,wandb]"]).values["track"]["to"] == ["tensorboard", "wandb"]
    assert compose("pretrain", ["track=[none,wandb]"]).values["track"]["to"] == ["wandb"]
    assert compose("pretrain", ["track=[wandb,tensorboard]", "track.to=[wandb]"]).values["track"]["to"] == ["wandb"]


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_prefixes_for_adding_change_nothing(prefix):
    values = compose("pretrain", [f"{prefix}optim.lr=0.5", f"{prefix}model.ffn=7", f"{prefix}model=gpt2_xl"]).values
    assert (values["optim"]["lr"], values["model"]["ffn"], values["model"]["layers"]) == (0.5, 7, 48)
    assert compose("pretrain", [f"{prefix}experiment=quickstart"]).values["run"]["name"] == "quickstart"


@pytest.mark.parametrize(
    ("overrides", "warmup"),
    [
        ([], (None, 0.01)),
        (["schedule.warmup_steps=5"], (5, None)),
        (["experiment=gpt2_small"], (2000, None)),
        (["experiment=gpt2_small", "schedule.warmup_ratio=0.2"], (None, 0.2)),
        (["schedule.warmup_steps=5", "schedule.warmup_ratio=0.2"], (5, 0.2)),  # the rules refuse it
    ],
)
def test_a_later_warmup_takes_the_place_of_an_earlier_one(overrides, warmup):
    schedule = compose("pretrain", overrides).values["schedule"]
    assert (schedule["warmup_steps"], schedule.get("warmup_ratio")) == warmup


def test_overrides_apply_in_their_order_and_deletions_go_back_to_the_default():
    values = compose("pretrain", ["optim.lr=1", "optim.lr=2", "optim={eps: 3}", "~optim.betas", "~track"]).values
    assert values["optim"]["lr"] == 2
    assert values["optim"]["eps"] == 3
    assert "betas" not in values["optim"]
    assert "track" not in values
    assert compose("pretrain", ["~optim.lr", "optim.lr=5"]).values["optim"]["lr"] == 5


def test_layers_tell_where_values_come_from():
    composition = compose("pretrain", ["experiment=gpt2_small", "train.seed=5", "data.path=x"])
    origins = trace(composition.layers)
    assert origins["model.layers"].source == "conf/model/gpt2_small.yaml"
    assert origins["train.seed"].source == "command line"
    assert origins["run.name"].source == "conf/experiment/gpt2_small.yaml"
    assert origins["run.name"].replaced == (("conf/pretrain.yaml", "pretrain"),)
    assert origins["schedule.warmup_ratio"].source == "conf/experiment/gpt2_small.yaml"


def test_an_item_of_a_list_is_set_by_its_index():
    composition = compose("pretrain", ["optim.betas.1=0.5"])
    assert composition.values["optim"]["betas"] == [0.9, 0.5]
    assert trace(composition.layers)["optim.betas"].source == "command line"


def test_interpolations_are_resolved_after_overrides():
    values = compose("pretrain", ["data=store", "model=gpt2_small", "model.max_positions=64", "data.path=x"]).values
    assert values["data"]["sequence_length"] == 64
    assert compose("pretrain", ["run.name=a${train.seed}"]).values["run"]["name"] == "a1234"


@pytest.fixture
def conf(tmp_path):
    """A small conf/ of a user's own."""
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "sgd.yaml").write_text("lr: 1\n")
    (tmp_path / "root.yaml").write_text("defaults:\n  - optim: sgd\n  - _self_\nx: 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("lr: [", "sgd.yaml"),
        ("lr: 1\nlr: 2", "duplicate key"),
        ("- 1\n- 2", "settings need names"),
        ("defaults:\n  - nowhere\n", "nowhere"),
        ("lr: 1\n\tx: 2", "sgd.yaml"),
        ("defaults:\n  - override /optum: sgd\n", "optum"),
        ("defaults:\n  - /model: nope\n", "nope"),
    ],
)
def test_broken_files_are_refused_with_their_name_or_fault(conf, text, part):
    (conf / "optim" / "sgd.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        compose("root", ["y=1,2"], SearchPath((conf,)))
    first, second = caught.value.problems
    assert first.startswith("y=1,2 gives several values")
    assert second.startswith("conf/ cannot be composed: ")
    assert part in second


def test_a_root_file_that_is_no_yaml_is_refused(conf):
    (conf / "root.yaml").write_text("defaults: [")
    with pytest.raises(ConfigError, match=r"conf/ cannot be composed: .*root\.yaml"):
        compose("root", [], SearchPath((conf,)))


def test_an_experiment_without_its_package_line_is_refused(conf):
    (conf / "experiment").mkdir()
    (conf / "experiment" / "mine.yaml").write_text("x: 2\n")
    (conf / "root.yaml").write_text("defaults:\n  - _self_\n  - experiment: null\nx: 1\n")
    with pytest.raises(ConfigError, match=r"conf/experiment/mine.yaml has to begin with the line: # @package _global_"):
        compose("root", ["experiment=mine"], SearchPath((conf,)))
    (conf / "experiment" / "mine.yaml").write_text("# @package _global_\nx: 2\n")
    assert compose("root", ["experiment=mine"], SearchPath((conf,))).values == {"x": 2}


def test_an_interpolation_that_leads_nowhere_is_a_problem(conf):
    (conf / "optim" / "sgd.yaml").write_text("lr: ${nowhere}\nbetas: [1, '${gone}']\n")
    composition = compose("root", [], SearchPath((conf,)))
    assert len(composition.problems) == 2
    assert composition.spoken_of == ["optim.lr", "optim.betas"]
    assert composition.values["optim"] == {"lr": "???", "betas": "???"}


def test_groups_and_choices():
    assert OWN.groups("prepare_data") == {"clean": "none", "dedup": "exact", "tokenizer": "bpe"}
    assert OWN.groups("pretrain")["experiment"] is None
    assert "gpt2_small" in OWN.choices("model")


@pytest.mark.parametrize("key", ["run.name", "run.dir", "train.resume"])
def test_the_time_is_left_to_the_shell_as_ranks_would_each_have_their_own(key):
    composition = compose("pretrain", [f"{key}=x_${{now:%H-%M}}"])
    (problem,) = composition.problems
    assert problem.startswith(f"{key} = 'x_${{now:%H-%M}}' would differ between ranks")
    assert f"{key}=x_$(date +%F)" in problem


@pytest.mark.parametrize(
    ("root", "word", "said"),
    [
        (
            "finetune",
            "experiment=gpt2_small",
            "experiment = gpt2_small is of pretraining, which launch/pretrain.py does",
        ),
        ("finetune", "data=store", "data = store is of pretraining"),
        (
            "submit_finetune",
            "experiment=quickstart",
            "model.init_from=DIR or train.init_from=RUN, task=NAME and data.train=",
        ),
        ("pretrain", "data=labelled", "data = labelled is of fine-tuning, not of pretrain"),
        ("plan", "data=labelled", "launch/finetune.py --check … cluster.gpu=NAME prints its plan"),
    ],
)
def test_what_another_training_is_made_of_is_refused_with_what_takes_it(root, word, said):
    kind = {"finetune": FinetuneConfig, "submit_finetune": FinetuneSubmissionConfig, "plan": PlanConfig}
    with pytest.raises(ConfigError) as refused:
        load(kind.get(root, PretrainConfig), root, [word])
    assert said in refused.value.problems[0]
    for experiment in ("squad_bert", "conll2003_bert"):
        assert compose("finetune", ["model=bert_base", f"experiment={experiment}"]).problems == []
