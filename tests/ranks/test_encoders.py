"""Every family but GPT: N ranks = 1 rank, on grids of every axis that it has."""

import functools

import pytest

from tests.ranks.selection import covering
from tests.ranks.test_grids import GRIDS, agree
from tests.ranks.training import configure, few_steps, train_case

pytestmark = pytest.mark.ranks

BERT = {
    "model__family": "bert",
    "model__norm_placement": "post",
    "model__segments": 2,
    "model__activation": "gelu",
    "objective__name": "mlm_nsp",
}
MODELS = {
    "bert": BERT,
    "bert_pre_norm": {**BERT, "model__norm_placement": "pre"},
    "roberta": {
        "model__family": "roberta",
        "model__norm_placement": "post",
        "model__segments": 1,
        "model__activation": "gelu",
        "model__position_offset": 2,
        "objective__name": "mlm",
    },
}
ELECTRA = {
    "model__family": "electra",
    "model__norm_placement": "post",
    "model__segments": 2,
    "model__activation": "gelu",
    "model__generator_hidden": 32,
    "model__generator_heads": 4,
    "objective__name": "rtd",
}
T5 = {
    "model__family": "t5",
    "model__position": "relative",
    "model__relative_distance": 20,
    "model__decoder_layers": 2,
    "model__activation": "geglu",
    "model__norm": "rmsnorm",
    "model__bias": False,
    "model__tied_embeddings": False,
    "objective__name": "span",
}
TRANSFORMER = {
    "model__family": "transformer",
    "model__position": "sinusoidal",
    "model__activation": "relu",
    "model__norm_placement": "post",
    "objective__name": "span",
}
#: Longformer's attention.
WINDOW = {**MODELS["roberta"], "model__window": 4, "model__global_tokens": 2}
UL2 = {**T5, "objective__name": "ul2"}
MODELS |= {"window": WINDOW, "electra": ELECTRA, "t5": T5, "transformer": TRANSFORMER, "ul2": UL2}
DROPOUT = {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1}


@pytest.fixture(scope="module")
def train(ranks):
    @functools.cache
    def run(world_size: int, items: tuple):
        return ranks.run(world_size, train_case, configure(world_size, **few_steps(world_size, dict(items))))

    return lambda world_size, **changes: run(world_size, tuple(sorted(changes.items())))


#: Every axis of every family once, of T5 by spans alone; the whole matrix is `slow`.
QUICK = {
    ("bert", "data2_tensor2_sequence"),
    ("bert", "tensor2_pipeline2_sequence_virtual2"),
    ("bert_pre_norm", "tensor2_pipeline2"),
    ("roberta", "data2_pipeline2_virtual2"),
    ("window", "tensor2_sequence"),
    ("electra", "data2_tensor2_sequence"),
    ("t5", "data2_tensor2_sequence"),
    ("transformer", "data2_tensor2_sequence"),
}
MATRIX = [
    (model, name)
    for model, settings in MODELS.items()
    for name, (_, changes) in GRIDS.items()
    if "parallel__pipeline" not in changes or settings["model__family"] in ("bert", "roberta")
]


@pytest.mark.parametrize(("model", "name"), covering(MATRIX, QUICK))
def test_grid_equals_one_rank(train, model, name):
    world_size, changes = GRIDS[name]
    reference = train(1, **MODELS[model])
    agree(train(world_size, engine__zero_stage=1, **changes, **MODELS[model]), reference)
    assert min(reference[0].losses) > 0


def test_micro_batch_does_not_matter(train):
    agree(train(2, train__micro_batch=1, **BERT), train(1, **BERT))


@pytest.mark.parametrize("name", ["tensor2_sequence", pytest.param("tensor2_pipeline2", marks=pytest.mark.slow)])
def test_dropout_is_the_same_on_every_grid(train, name):
    world_size, changes = GRIDS[name]
    reference = train(1, **BERT, **DROPOUT)
    agree(train(world_size, **changes, **BERT, **DROPOUT), reference)
    assert abs(reference[0].losses[0] - train(1, **BERT)[0].losses[0]) > 1e-4


#: Its generator's heads are of another size, and turn by other tables.
TURNED = {**ELECTRA, "model__position": "rotary", "model__generator_heads": 2}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(ELECTRA, id="electra"),
        pytest.param(TURNED, id="electra_rotary", marks=pytest.mark.slow),
        pytest.param(T5, id="t5"),
    ],
)
def test_dropout_of_two_networks_is_the_same_on_every_grid(train, model):
    world_size, changes = GRIDS["tensor2_sequence"]
    agree(train(world_size, **changes, **model, **DROPOUT), train(1, **model, **DROPOUT))


def test_targets_may_be_longer_than_what_is_read(train):
    """Targets have a place more than the text, and what lengthens them for slices none."""
    model = {**TRANSFORMER, "objective__mask_rate": 0.5}
    world_size, changes = GRIDS["tensor2_sequence"]
    agree(train(world_size, **changes, **model), train(1, **model))


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_changes_nothing(train, recompute):
    agree(train(1, model__recompute=recompute, **BERT, **DROPOUT), train(1, **BERT, **DROPOUT))


def test_the_loss_is_the_weighted_sum_of_its_parts(train):
    (outcome,) = train(1, **BERT)
    for loss, terms in zip(outcome.losses, outcome.terms, strict=True):
        assert loss == pytest.approx(terms["mlm"] + 0.5 * terms["nsp"], rel=1e-6)
    assert 0 < outcome.evaluation["nsp"][2] < 8
