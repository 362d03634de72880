"""Context parallelism: ranks that share each sequence equal one rank, for every family, head and mask, under both engines."""

import pytest

from tests.ranks import engine_runs, test_likely_texts, test_task_heads
from tests.ranks.engine_runs import trainer
from tests.ranks.labelled import agree_on_predictions, learner
from tests.ranks.selection import covering
from tests.ranks.test_encoders import DROPOUT
from tests.ranks.test_encoders import MODELS as ENCODERS
from tests.ranks.test_grids import MODELS as DECODERS
from tests.ranks.test_grids import grid
from tests.ranks.test_lora import MODELS as ADAPTERS
from tests.ranks.training import configure

pytestmark = pytest.mark.ranks

GRIDS = {
    "context2": grid(2, context=2),
    "context4": grid(4, context=4),
    "data2_context2": grid(4, context=2),
    "tensor2_context2": grid(4, context=2, tensor=2),
    "tensor2_context2_sequence": grid(4, context=2, tensor=2, sequence_parallel=True),
    "pipeline2_context2": grid(4, context=2, pipeline=2),
    "pipeline2_virtual2_context2": grid(4, context=2, pipeline=2, virtual_pipeline=2),
}
MODELS = DECODERS | ENCODERS | {"gpt_window": {"model__window": 5}}
#: Heads of keys and values that are fewer than context ranks are sent to several of them.
MODELS["one_key"] = {**DECODERS["llama"], "model__kv_heads": 1}
SHORT = {**DROPOUT, "train__steps": 3, "train__micro_batch": 2}
CHAINS = ("gpt", "bert", "roberta")
MATRIX = [
    (model, name, engine, zero_stage)
    for model, settings in MODELS.items()
    for name, (_, changes) in GRIDS.items()
    for engine, zero_stage in (("megatron", 0), ("megatron", 1), ("deepspeed", 1), ("deepspeed", 2), ("deepspeed", 3))
    if "parallel__pipeline" not in changes or (settings.get("model__family", "gpt") in CHAINS and zero_stage < 2)
]
#: Every kind of network, mask and grid, and every stage of both engines once.
QUICK = [
    ("gpt2", "data2_context2", "megatron", 1),
    ("gpt2", "data2_context2", "deepspeed", 2),
    ("llama", "context4", "megatron", 1),
    ("one_key", "context2", "megatron", 1),
    ("prefix_documents", "pipeline2_virtual2_context2", "megatron", 1),
    ("gpt_window", "pipeline2_context2", "deepspeed", 1),
    ("bert_pre_norm", "pipeline2_context2", "megatron", 0),
    ("window", "context2", "megatron", 1),
    ("t5", "tensor2_context2_sequence", "megatron", 1),
]


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    return trainer(ranks, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def learn(ranks, tmp_path_factory):
    return learner(ranks, str(tmp_path_factory.mktemp("labelled")))


@pytest.mark.parametrize(("model", "name", "engine", "zero_stage"), covering(MATRIX, QUICK))
def test_context_ranks_equal_one(train, model, name, engine, zero_stage):
    """With all that is dropped."""
    world_size, changes = GRIDS[name]
    settings = {**MODELS[model], **SHORT}
    outcomes = train(world_size, engine__name=engine, engine__zero_stage=zero_stage, **changes, **settings)
    engine_runs.agree(outcomes, train(1, **settings))


@pytest.mark.parametrize("recompute", covering(["selective", "full"], ["full"]))
def test_recomputation_changes_nothing(train, recompute):
    world_size, changes = GRIDS["tensor2_context2_sequence"]
    settings = {**MODELS["llama"], **SHORT}
    engine_runs.agree(train(world_size, model__recompute=recompute, **changes, **settings), train(1, **settings))


@pytest.mark.parametrize("name", covering(["tensor2_context2_sequence", "context2"], ["tensor2_context2_sequence"]))
def test_adapters(ranks, tmp_path, name):
    world_size, changes = GRIDS[name]
    settings = {"model__lora": ADAPTERS["all"], **SHORT}

    def adapted(size: int, **more):
        return ranks.run(size, engine_runs.train_case, configure(size, run__root=str(tmp_path), **settings, **more))

    engine_runs.agree(adapted(world_size, **changes), adapted(1))


TASKS = [
    (network, task, name, engine, zero_stage)
    for networks, tasks in (
        (test_task_heads.NETWORKS, test_task_heads.TASKS_OF),
        (test_likely_texts.NETWORKS, test_likely_texts.TASKS_OF),
    )
    for network in networks
    for task in tasks[network]
    for name, engine, zero_stage in (
        ("context2", "megatron", 0),
        ("data2_context2", "deepspeed", 3),
        ("tensor2_context2_sequence", "megatron", 1),
        ("pipeline2_context2", "megatron", 1),
    )
    if "pipeline" not in name or network not in ("t5", "transformer")
]
QUICK_TASKS = [
    ("bert", "classify", "context2", "megatron", 0),
    ("roberta", "tag", "context2", "megatron", 0),
    ("electra", "span", "data2_context2", "deepspeed", 3),
    ("llama", "regress", "pipeline2_context2", "megatron", 1),
    ("gpt", "likely_choice", "tensor2_context2_sequence", "megatron", 1),
    ("t5", "written_label", "context2", "megatron", 0),
]


@pytest.mark.parametrize(("network", "task", "name", "engine", "zero_stage"), covering(TASKS, QUICK_TASKS))
def test_tasks_on_context_ranks_equal_one(learn, network, task, name, engine, zero_stage):
    """Each sample is predicted once, as one rank predicts it."""
    world_size, changes = GRIDS[name]
    networks = {**test_likely_texts.NETWORKS, **test_task_heads.NETWORKS}
    settings = {**networks[network], **SHORT}
    (reference,) = learn(1, task, **settings)
    outcomes = learn(world_size, task, engine__name=engine, engine__zero_stage=zero_stage, **settings, **changes)
    engine_runs.agree(outcomes, [reference])
    agree_on_predictions(outcomes, reference, task)
