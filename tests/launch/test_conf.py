"""Every file in conf/ composes, decodes and passes the rules."""

import pytest
import yaml

from dist_plm.cli.app import load
from dist_plm.cli.search_path import CONF, OWN
from dist_plm.spec.derived import model_ranks
from dist_plm.spec.families import FAMILIES
from dist_plm.spec.objectives import objectives_of
from dist_plm.spec.prepare.schema import PrepareConfig
from dist_plm.spec.rules.finalize import check_prepare, finalize
from dist_plm.spec.schema import PretrainConfig
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.spec.tasks import TASKS
from tests.experiments import FINETUNES
from tests.tasks.convert.hf_dirs import save

#: Those of conf/model that hold sizes.
MODELS = [model for model in OWN.choices("model") if model != "from_hf"]
PRETRAIN_CHOICES = [
    (group, choice)
    for group in OWN.groups("pretrain")
    if group != "experiment"
    for choice in (MODELS if group == "model" else OWN.choices(group))
    if (group, choice) not in (("data", "labelled"), ("train", "finetune"))  # of launch/finetune.py
]
#: What a choice needs beside it, where the default model is too small for it.
BESIDE = {"parallel": ["model=gpt3_175b"], "data": ["model=gpt2_small"]}
#: A model that learns from objectives of these names and their variants.
LEARNER = {
    "causal": "gpt_tiny",
    "mlm": "bert_tiny",
    "rtd": "electra_tiny",
    "span": "t5_tiny",
    "prefix": "gpt_tiny",
    "ul2": "t5_tiny",
}


def accepted(*overrides: str) -> PretrainConfig:
    config, _ = load(PretrainConfig, "pretrain", ["data.path=corpus/x", *overrides])
    return finalize(config, world_size=model_ranks(config.parallel), vocab_size=1000)


def learns_from(model: str) -> str:
    """The first objective that the family of a model knows."""
    family = yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text())["family"]
    return f"objective={objectives_of(FAMILIES[family])[0]}"


@pytest.mark.parametrize(("group", "choice"), PRETRAIN_CHOICES)
def test_every_choice_of_a_group_is_accepted(group, choice):
    beside = [learns_from(choice)] if group == "model" else BESIDE.get(group, [])
    if group == "objective":
        beside = [f"model={LEARNER[choice.partition('_')[0]]}"]
    accepted(f"{group}={choice}", *beside)


@pytest.mark.parametrize("experiment", [name for name in OWN.choices("experiment") if name not in FINETUNES])
def test_every_experiment_is_accepted(experiment):
    assert accepted(f"experiment={experiment}").run.name == experiment


@pytest.mark.parametrize("experiment", FINETUNES)
def test_every_fine_tuning_experiment_is_accepted(experiment, tmp_path):
    overrides = [
        f"experiment={experiment}",
        f"model.init_from={save('bert_model', tmp_path)}",
        "data.sequence_length=32",
        "data.train=train.csv",
        "data.validation=dev.csv",
    ]
    config, _ = load(FinetuneConfig, "finetune", overrides)
    assert finalize(config, world_size=2, vocab_size=None).run.name == experiment


@pytest.mark.parametrize("choice", OWN.choices("task"))
def test_every_task_is_accepted(choice, tmp_path):
    model = "bert_model" if TASKS[choice].suits(FAMILIES["bert"]) else "gpt2_sequence"
    overrides = [f"task={choice}", f"model.init_from={save(model, tmp_path)}", "data.train=x.csv"]
    config, _ = load(FinetuneConfig, "finetune", [*overrides, "data.sequence_length=32"])
    assert finalize(config, world_size=1, vocab_size=None).task.name == choice


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("data", ["quickstart", "store"])
def test_every_model_is_accepted_with_small_and_full_samples(model, data):
    more = ["data.sequence_length=64"] if "tiny" in model or "t5" in model else []
    accepted(f"model={model}", f"data={data}", learns_from(model), *more)


@pytest.mark.parametrize("tokenizer", OWN.choices("tokenizer"))
def test_every_tokenizer_is_accepted(tokenizer):
    more = ["tokenizer.path=t.json"] if tokenizer == "file" else []
    overrides = ["data.sources=[{path: a.txt}]", "data.out=x", f"tokenizer={tokenizer}", *more]
    check_prepare(load(PrepareConfig, "prepare_data", overrides)[0])


def test_no_file_is_out_of_reach():
    composed = {f"conf/{group}" for root in CONF.glob("*.yaml") for group in OWN.groups(root.stem)}
    assert {f"conf/{folder.name}" for folder in CONF.iterdir() if folder.is_dir()} == composed
    assert all(path.suffix == ".yaml" for path in CONF.rglob("*") if path.is_file())


def test_several_trackers_by_name():
    assert accepted("track=[wandb,tensorboard]").track.to == ("wandb", "tensorboard")


def test_published_sizes():
    gpt3 = accepted("experiment=gpt3_175b")
    assert gpt3.model.head_size == 128
    assert gpt3.train.global_batch * gpt3.data.sequence_length == 3_145_728
    assert gpt3.train.steps * 3_145_728 == pytest.approx(300e9, rel=1e-5)
    assert gpt3.schedule.warmup_steps is not None
    assert gpt3.schedule.warmup_steps * 3_145_728 == pytest.approx(375e6, rel=0.01)
    assert accepted("model=llama2_7b").model.ffn == 11008
