"""Training on the CPU by other ways to the same numbers: products of oneDNN, those of 16 bits in fp32, gradients put straight
into their buffer."""

import pytest

from dist_plm.models.kernels import linear as products
from dist_plm.models.kernels import row_sums
from tests.ranks.engine_runs import agree, train_case, trainer
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_encoders import DROPOUT, MODELS
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_grids import MODELS as DECODERS
from tests.ranks.test_grids import agree as agree_roughly
from tests.ranks.training import Outcome, build, configure, rank_batches

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    return trainer(ranks, tmp_path_factory.mktemp("runs"))


def train_by_onednn(world: World, config) -> Outcome:
    fewest, products._FEWEST = products._FEWEST, 0
    try:
        with products.multiplying_by(onednn=True):
            return train_case(world, config)
    finally:
        products._FEWEST = fewest


def train_by_fp32(world: World, config) -> Outcome:
    with products.multiplying_by(fp32=True):
        return train_case(world, config)


def train_by_autograd(world: World, config) -> Outcome:
    allow, row_sums.add_directly = row_sums.add_directly, lambda _: None
    try:
        return train_case(world, config)
    finally:
        row_sums.add_directly = allow


def takes_directly(world: World, config) -> list[bool]:
    engine, _ = build(world, config)
    chunks = engine._chunks  # pyright: ignore[reportAttributeAccessIssue]
    return [row_sums.buffer_of(p) is not None for chunk in chunks for p in chunk.parameters()]


@pytest.mark.parametrize("tied", [True, False])
def test_onednn_learns_the_same(ranks, train, tmp_path, tied):
    settings = {"model__tied_embeddings": tied}
    outcomes = ranks.run(1, train_by_onednn, configure(1, **settings, run__root=str(tmp_path)))
    agree(outcomes, train(1, **settings))


@pytest.mark.parametrize("grid", ["tensor2", "tensor2_sequence"])
def test_onednn_learns_the_same_on_tensor_ranks(ranks, train, tmp_path, grid):
    size, changes = GRIDS[grid]
    agree(ranks.run(size, train_by_onednn, configure(size, **changes, run__root=str(tmp_path))), train(1))


#: Models, grids and what else, learned by fp32: every way into a product once.
BY_FP32 = {
    "gpt": (DECODERS["gpt2"], None, {}),
    "gpt_pipeline": (DECODERS["gpt2"], "tensor2_pipeline2", {}),
    "gpt_fp16": (DECODERS["gpt2"], None, {"precision__name": "fp16"}),
    "deepspeed": (DECODERS["gpt2"], "data2", {"engine__name": "deepspeed", "engine__zero_stage": 3}),
    "llama_sequence": (DECODERS["llama"], "tensor2_sequence", {}),
    "documents": (DECODERS["documents"], "tensor2", {}),
    "bert_dropout": ({**MODELS["bert"], **DROPOUT}, None, {}),
    "t5": (MODELS["t5"], "data2", {}),
}


@pytest.mark.parametrize("name", covering(list(BY_FP32), [name for name in BY_FP32 if name not in ("gpt", "t5")]))
def test_products_of_16_bits_by_fp32_stay_close(ranks, train, tmp_path, name):
    settings, grid, more = BY_FP32[name]
    size, changes = (1, {}) if grid is None else GRIDS[grid]
    changes = {"precision__name": "bf16", "engine__zero_stage": 1, **changes, **more}
    outcomes = ranks.run(size, train_by_fp32, configure(size, **settings, **changes, run__root=str(tmp_path)))
    agree_roughly(outcomes, train(1, **settings), 2e-2, 2e-2)


@pytest.mark.parametrize(
    ("size", "settings"), [(1, {}), (2, {"model__tied_embeddings": False, "parallel__pipeline": 2})]
)
def test_gradients_may_go_straight_to_their_buffer(ranks, train, tmp_path, size, settings):
    config = configure(size, **settings, run__root=str(tmp_path))
    assert all(ranks.run(size, takes_directly, config)[0])
    agree(ranks.run(size, train_by_autograd, config), train(size, **settings))


def test_where_reduction_overlaps_autograd_has_all_of_them(ranks, tmp_path):
    config = configure(1, engine__overlap_grad_reduce=True, run__root=str(tmp_path))
    assert not any(ranks.run(1, takes_directly, config)[0])


def filled_in_backward(world: World, config) -> bool:
    """Whether autograd adds gradients to the engine's buffers itself, without a hook of each parameter."""
    engine, _ = build(world, config)
    (chunk,) = engine._chunks  # pyright: ignore[reportAttributeAccessIssue]
    return not chunk.grad_accs


@pytest.mark.parametrize(
    ("settings", "filled"),
    [({}, True), ({"precision__name": "bf16"}, False), ({"engine__overlap_grad_reduce": True}, False)],
)
def test_gradients_are_added_up_once(ranks, tmp_path, settings, filled):
    config = configure(1, **settings, run__root=str(tmp_path))
    assert ranks.run(1, filled_in_backward, config) == [filled]


def replaced_in_backward(world: World, config) -> None:
    engine, groups = build(world, config)
    (chunk,) = engine._chunks  # pyright: ignore[reportAttributeAccessIssue]
    name, weight = next((name, one) for name, one in chunk.module.named_parameters() if one.ndim == 2)
    weight.register_post_accumulate_grad_hook(lambda one: setattr(one, "grad", one.grad.clone()))
    with pytest.raises(RuntimeError, match=f"gradient of {name} elsewhere"):
        engine.train_step(rank_batches(config, groups, 0), 1e-3)


def test_a_gradient_that_misses_its_buffer_is_told(ranks, tmp_path):
    ranks.run(1, replaced_in_backward, configure(1, run__root=str(tmp_path)))
