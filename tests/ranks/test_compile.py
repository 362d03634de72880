"""Compiled layers make the updates of eager ones, and are compiled once, whatever the step."""

from collections import Counter

import pytest
import torch
from torch._dynamo.utils import counters

from dist_plm.core.errors import ConfigError
from dist_plm.engines.compiling import compiled_layers, compiler_problem, wanted
from dist_plm.models.kernels.linear import linear, multiplying_by
from dist_plm.models.kernels.linear_fp8 import fp8_linear
from dist_plm.models.layers.transformer import TransformerLayer
from dist_plm.spec.engines import EngineConfig
from tests.ranks.engine_runs import agree, pieces_of, trainer
from tests.ranks.pool import World
from tests.ranks.test_encoders import DROPOUT, MODELS
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_grids import MODELS as DECODERS
from tests.ranks.training import Outcome, build, configure, trained

pytestmark = [
    pytest.mark.ranks,
    pytest.mark.skipif(compiler_problem(torch.device("cpu")) is not None, reason="there is no C++ compiler"),
]

LAYERS = {"engine__compile": "layers", "train__steps": 3}


def train_compiled(world: World, config) -> tuple[Outcome, Counter, Counter, list[str]]:
    """What it learns; graphs, and places where a graph ended, after the first step and after all; names of parameters."""
    torch._dynamo.reset()
    counters.clear()
    engine, groups = build(world, config)
    chunks = engine._chunks  # pyright: ignore[reportAttributeAccessIssue]
    names = [name for chunk in chunks for name, _ in chunk.named_parameters()]
    found: list[Counter] = []
    plain = engine.train_step

    def step(*args):
        result = plain(*args)
        found.append(Counter(graphs=counters["stats"]["unique_graphs"], breaks=sum(counters["graph_break"].values())))
        return result

    engine.train_step = step
    outcome = trained(engine, groups, config, lambda: pieces_of(engine))
    torch._dynamo.reset()
    return outcome, found[0], found[-1], names


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    return trainer(ranks, tmp_path_factory.mktemp("runs"))


def check(ranks, train, tmp_path, size: int, changes: dict, settings: dict, graphs: int) -> None:
    config = configure(size, **settings, **changes, **LAYERS, run__root=str(tmp_path))
    found = ranks.run(size, train_compiled, config)
    for _, first, last, names in found:
        assert first == last == Counter(graphs=graphs, breaks=0)
        assert not [name for name in names if "_orig_mod" in name]
    agree([outcome for outcome, *_ in found], train(1, **settings, train__steps=3))


#: How many graphs: each kind of layer has one, which all layers share.
FAMILIES = {
    "llama": (DECODERS["llama"], 1),
    "bert": (MODELS["bert"], 1),
    "window": (MODELS["window"], 1),
    "electra": (MODELS["electra"], 2),
    "t5": (MODELS["t5"], 2),
    # Another seed: of this one's numbers before a ReLU one is as good as 0.
    "transformer": ({**MODELS["transformer"], "train__seed": 2}, 2),
}


@pytest.mark.parametrize("family", [n if n == "bert" else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_families(ranks, train, tmp_path, family):
    settings, graphs = FAMILIES[family]
    check(ranks, train, tmp_path, 1, {}, {**settings, **DROPOUT}, graphs)


@pytest.mark.parametrize("recompute", ["selective", pytest.param("full", marks=pytest.mark.slow)])
def test_recomputation(ranks, train, tmp_path, recompute):
    check(ranks, train, tmp_path, 1, {"model__recompute": recompute}, {**MODELS["bert"], **DROPOUT}, 1)


def test_deepspeed(ranks, train, tmp_path):
    changes = {"engine__name": "deepspeed", "engine__zero_stage": 2}
    check(ranks, train, tmp_path, 1, changes, {**MODELS["bert"], **DROPOUT}, 1)


def test_parameters_gathered_while_it_runs(ranks, train, tmp_path):
    size, changes = GRIDS["data2"]
    overlap = {"engine__overlap_grad_reduce": True, "engine__overlap_param_gather": True, "engine__zero_stage": 1}
    check(ranks, train, tmp_path, size, {**changes, **overlap}, {**MODELS["bert"], **DROPOUT}, 1)


#: Activations, and rotations of queries and of keys, which are as many as these here.
PIECES = {"bert": (MODELS["bert"], 1), "llama": ({**DECODERS["llama"], "model__kv_heads": 4}, 2)}


@pytest.mark.parametrize("model", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
def test_pieces_between_collectives(ranks, train, tmp_path, model):
    (size, changes), (settings, graphs) = GRIDS["tensor2_sequence"], PIECES[model]
    check(ranks, train, tmp_path, size, changes, settings, graphs)


def whether(world: World, config) -> tuple[int, int]:
    engine, _ = build(world, config)
    chunks = engine._chunks  # pyright: ignore[reportAttributeAccessIssue]
    layers = [m for chunk in chunks for m in chunk.modules() if isinstance(m, TransformerLayer)]
    return sum(1 for chunk in chunks for _ in compiled_layers(chunk)), len(layers)


@pytest.mark.parametrize(("compile", "compiled"), [("auto", 0), ("off", 0), ("layers", 4)])
def test_on_the_cpu_it_is_a_choice(ranks, compile, compiled):
    assert ranks.run(1, whether, configure(1, engine__compile=compile)) == [(compiled, 4)]


def test_on_cuda_it_is_the_default():
    cuda = torch.device("cuda")
    assert wanted(EngineConfig(name="any"), cuda)
    assert not wanted(EngineConfig(name="any", zero_stage=3), cuda)
    assert not wanted(EngineConfig(name="any", compile="off"), cuda)


def test_what_cannot_be_compiled_is_refused():
    with pytest.raises(ConfigError, match=r"engine\.compile = 'layers' does not work"):
        configure(1, engine__compile="layers", engine__name="deepspeed", engine__zero_stage=3)


def takes_constants(world: World, config) -> bool:
    torch._dynamo.config.specialize_float = False  # pyright: ignore[reportAttributeAccessIssue]
    build(world, config)
    return torch._dynamo.config.specialize_float  # pyright: ignore[reportAttributeAccessIssue]


def test_numbers_of_a_layer_are_constants(ranks):
    """Where a process compiles a second model with another scale, PyTorch makes an fp64 input of it. On an H100 Triton then
    refused our kernel; on a CPU nothing comes of it."""
    assert ranks.run(1, takes_constants, configure(1, **LAYERS)) == [True]


def by_compiling(
    world: World, function, shapes: list[tuple[int, ...]], dtype: torch.dtype, fp32: bool = False
) -> float:
    """By which share of the largest a compiled function's results and gradients are off an eager one's; fp32 is oneDNN's.

    Args:
        fp32: whether 16 bits are multiplied in it.
    """
    torch._dynamo.reset()
    draw = torch.Generator().manual_seed(0)
    *inputs, grad = (torch.randn(shape, generator=draw).to(dtype) for shape in shapes)
    found = []
    for one in (function, torch.compile(function, fullgraph=True, dynamic=False)):
        given = [values.clone().requires_grad_() for values in inputs]
        with multiplying_by(onednn=True, fp32=fp32):
            result = one(*given)
            result.backward(grad)
        found.append([result.detach(), *(values.grad for values in given)])
    torch._dynamo.reset()
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in zip(*found, strict=True))


@pytest.mark.slow
def test_products_of_8_bits(ranks):
    assert ranks.run(1, by_compiling, fp8_linear, [(2, 9, 32), (16, 32), (2, 9, 16)], torch.bfloat16) == [0.0]


def after_another(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """What a compiler could make a part of the product."""
    return torch.relu(linear(x + 1.0, weight, bias))


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-6), pytest.param(torch.bfloat16, 0.0, marks=pytest.mark.slow)]
)
def test_products_of_onednn(ranks, dtype, most):
    """PyTorch's compiler takes its weights for constants, and ends with an error where they are learned."""
    shapes = [(64, 4, 256), (160, 256), (160,), (64, 4, 160)]
    (off,) = ranks.run(1, by_compiling, after_another, shapes, dtype)
    assert off <= most


def between_others(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Without a kink that rounding could push a number over."""
    return torch.nn.functional.silu(linear(x + 1.0, weight, bias))


def test_products_by_fp32(ranks):
    """What comes before and after a product is not rounded where a compiler makes it."""
    shapes = [(64, 4, 64), (40, 64), (40,), (64, 4, 40)]
    (off,) = ranks.run(1, by_compiling, between_others, shapes, torch.bfloat16, True)
    assert off <= 1e-2


def without_compiler(world: World, config) -> str:
    from torch._inductor import config as inductor

    before, inductor.cpp.cxx = inductor.cpp.cxx, ("no-such-compiler",)
    try:
        build(world, config)
    except ConfigError as error:
        return str(error)
    finally:
        inductor.cpp.cxx = before
    return ""


def test_without_a_compiler_it_is_refused_with_the_remedy(ranks):
    (told,) = ranks.run(1, without_compiler, configure(1, engine__compile="layers"))
    assert "PyTorch finds no C++ compiler: install g++" in told
    assert "engine.compile=off" in told
