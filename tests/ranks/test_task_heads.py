"""The heads of tasks: N ranks = 1 rank on every axis and under both engines, predictions of samples among it."""

import pytest

from tests.ranks.engine_runs import agree
from tests.ranks.labelled import SHARDINGS, TASKS, agree_on_predictions, learner
from tests.ranks.selection import covering
from tests.ranks.test_encoders import BERT, DROPOUT, MODELS
from tests.ranks.test_encoders import ELECTRA as ELECTRA_PAIR
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_grids import MODELS as DECODERS

pytestmark = pytest.mark.ranks

#: A task's model is made of one that pretrains.
ELECTRA = {**ELECTRA_PAIR, "model__embedding_size": 48}
NETWORKS = {
    "bert": {**BERT, "objective__name": "mlm"},
    "bert_pre_norm": {**MODELS["bert_pre_norm"], "objective__name": "mlm"},
    "roberta": MODELS["roberta"],
    "electra": ELECTRA,
    "gpt": {},
    "llama": DECODERS["llama"],
}
OF_SEQUENCES = [name for name, task in TASKS.items() if task.head == "sequence"]
TASKS_OF = {name: OF_SEQUENCES if name in ("gpt", "llama") else list(TASKS) for name in NETWORKS}
CELLS = [
    (network, task, grid, engine, zero_stage)
    for network in NETWORKS
    for task in TASKS_OF[network]
    for grid, engine, zero_stage in SHARDINGS
]
#: Every network and every task, every grid and every sharding once.
QUICK = [
    ("bert", "classify", "tensor2_pipeline2", "megatron", 1),
    ("bert", "tag", "data2", "deepspeed", 2),
    ("bert_pre_norm", "span", "data2_tensor2_sequence", "deepspeed", 3),
    ("roberta", "choice", "tensor2_pipeline2", "deepspeed", 1),
    ("electra", "labels", "tensor2_sequence", "megatron", 0),
    ("electra", "tag", "data2_pipeline2_virtual2", "megatron", 1),
    ("gpt", "regress", "data2", "deepspeed", 3),
    ("llama", "classify", "data2_pipeline2_virtual2", "megatron", 1),
]


@pytest.fixture(scope="module")
def learn(ranks, tmp_path_factory):
    return learner(ranks, str(tmp_path_factory.mktemp("runs")))


@pytest.mark.parametrize(("network", "task", "grid", "engine", "zero_stage"), covering(CELLS, QUICK))
def test_grid_equals_one_rank(learn, network, task, grid, engine, zero_stage):
    world_size, changes = GRIDS[grid]
    settings = {**NETWORKS[network], **DROPOUT, "train__micro_batch": 2, "train__steps": 3}
    reference = learn(1, task, **settings)
    outcomes = learn(world_size, task, engine__name=engine, engine__zero_stage=zero_stage, **settings, **changes)
    agree(outcomes, reference)
    agree_on_predictions(outcomes, reference[0], task)


def test_micro_batch_does_not_matter(learn):
    bert = {**NETWORKS["bert"], **DROPOUT}
    agree(learn(1, "span", train__micro_batch=4, **bert), learn(1, "span", train__micro_batch=2, **bert))


def test_what_is_dropped_before_the_classifier_matters(learn):
    """A share of its own, where nothing else is dropped."""
    plain = learn(1, "classify", **NETWORKS["bert"])
    dropped = learn(1, "classify", model__classifier_dropout=0.5, **NETWORKS["bert"])
    assert abs(plain[0].losses[0] - dropped[0].losses[0]) > 1e-3
    assert plain[0].evaluation.keys() == dropped[0].evaluation.keys()
