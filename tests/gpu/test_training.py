"""A device trains as the CPU does: every family, both engines, every optimizer, with dropout; the reference are other
micro-batches in a CPU process of its own."""

import functools
import itertools
from typing import Any

import pytest
import torch

from dist_plm.models import masks
from tests.gpu.conftest import cuda
from tests.ranks.engine_runs import agree, train_case
from tests.ranks.pool import World
from tests.ranks.test_adafactor import ADAFACTOR
from tests.ranks.test_compile import train_compiled
from tests.ranks.test_context_parallel import GRIDS as CONTEXT
from tests.ranks.test_encoders import DROPOUT, MODELS
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_grids import MODELS as DECODERS
from tests.ranks.test_lamb import LAMB
from tests.ranks.test_muon import MUON
from tests.ranks.training import Outcome, configure

pytestmark = pytest.mark.ranks

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt": {},
    "llama": DECODERS["llama"],
    "documents": DECODERS["documents"],
    "prefix_documents": DECODERS["prefix_documents"],
    "near": {**DECODERS["llama"], "model__window": 4},
    "padded_t5": MODELS["ul2"],
    **{name: MODELS[name] for name in ("bert", "bert_pre_norm", "roberta", "window", "electra", "t5", "transformer")},
}
OPTIMIZERS = {"lamb": LAMB, "adafactor": ADAFACTOR, "muon": MUON}
ENGINES = {
    "megatron": {"engine__zero_stage": 0},
    "deepspeed_2": {"engine__name": "deepspeed", "engine__zero_stage": 2},
    "deepspeed_3": {"engine__name": "deepspeed", "engine__zero_stage": 3},
}


@pytest.fixture(scope="module")
def reference(ranks, tmp_path_factory):
    root = str(tmp_path_factory.mktemp("runs"))

    @functools.cache
    def run(items: tuple) -> list:
        settings = {**dict(items), "train__micro_batch": 4, "train__steps": 3, "run__root": root}
        return ranks.run(1, train_case, configure(1, **settings))

    return lambda **settings: run(tuple(sorted(settings.items())))


def trained(on, size: int, tmp_path, **settings: Any) -> list:
    settings = {"engine__compile": "off"} | settings
    settings |= {"train__micro_batch": 2, "train__steps": 3, "run__root": str(tmp_path)}
    return on(size, train_case, configure(size, **settings))


@pytest.mark.parametrize("family", FAMILIES)
def test_families(on, reference, tmp_path, family):
    settings = {**FAMILIES[family], **DROPOUT}
    agree(trained(on, 1, tmp_path, **settings), reference(**settings))


def train_with_ranges(world: World, config) -> Outcome:
    """Has the CPU tell attention which keys each query sees as CUDA does."""
    masks.RANGED_DEVICES.add("cpu")
    plain, found = masks.ranges_of, []
    masks.ranges_of = lambda *about: found.append(about) or plain(*about)
    try:
        outcome = train_case(world, config)
    finally:
        masks.RANGED_DEVICES.remove("cpu")
        masks.ranges_of = plain
    assert found
    return outcome


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
@pytest.mark.parametrize("family", ["documents", "prefix_documents", "near", "bert", "padded_t5"])
def test_ranges_of_keys(on, reference, tmp_path, family):
    """Seen through from the batch to the kernel's operation; on CUDA the trainings above do so."""
    settings = {**FAMILIES[family], **DROPOUT}
    changes = {"engine__compile": "off", "train__micro_batch": 2, "train__steps": 3, "run__root": str(tmp_path)}
    agree(on(1, train_with_ranges, configure(1, **settings, **changes)), reference(**settings))


#: Not again what the families are trained by.
CELLS = [
    *itertools.product(ENGINES, ["bert"], OPTIMIZERS),
    *itertools.product(["deepspeed_2"], ["gpt", "electra"], [""]),
]
CELLS += [("deepspeed_3", "bert", ""), ("deepspeed_3", "t5", "")]
#: Of these, on the CPU: tests/ranks has the rest.
HERE = [("megatron", "bert", "lamb"), ("deepspeed_2", "electra", ""), ("deepspeed_3", "bert", "adafactor")]


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
@pytest.mark.parametrize(("engine", "family", "optim"), HERE)
def test_engines_and_optimizers_here(on, reference, tmp_path, engine, family, optim):
    settings = {**FAMILIES[family], **DROPOUT, **OPTIMIZERS.get(optim, {})}
    agree(trained(on, 1, tmp_path, **settings, **ENGINES[engine]), reference(**settings))


@pytest.mark.parametrize("device", [cuda()], indirect=True)
@pytest.mark.parametrize(("engine", "family", "optim"), CELLS)
def test_engines_and_optimizers(on, reference, tmp_path, engine, family, optim):
    settings = {**FAMILIES[family], **DROPOUT, **OPTIMIZERS.get(optim, {})}
    agree(trained(on, 1, tmp_path, **settings, **ENGINES[engine]), reference(**settings))


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation(on, reference, tmp_path, recompute):
    settings = {**FAMILIES["bert"], **DROPOUT}
    agree(trained(on, 1, tmp_path, model__recompute=recompute, **settings), reference(**settings))


SHORT = [("bf16", "megatron", family) for family in FAMILIES] + [("bf16", "deepspeed_2", "bert")]
SHORT += [("fp8", "megatron", "gpt"), ("fp8", "deepspeed_3", "bert")]


@pytest.mark.parametrize(("precision", "engine", "family"), SHORT)
def test_fewer_bits_stay_close(on, reference, tmp_path, precision, engine, family):
    settings = {**FAMILIES[family], **DROPOUT}
    outcomes = trained(on, 1, tmp_path, precision__name=precision, **settings, **ENGINES[engine])
    ours, theirs = outcomes[0], reference(**settings)[0]
    torch.testing.assert_close(torch.tensor(ours.losses), torch.tensor(theirs.losses), rtol=2e-2, atol=0)
    # Of rounded logits ELECTRA's generator draws some other tokens.
    rtol = 0.5 if family == "electra" else 0.1
    torch.testing.assert_close(torch.tensor(ours.norms), torch.tensor(theirs.norms), rtol=rtol, atol=0)


@pytest.mark.parametrize("device", [cuda()], indirect=True)
@pytest.mark.parametrize(("engine", "family"), [*itertools.product(["megatron"], FAMILIES), ("deepspeed_2", "bert")])
def test_compiled(on, reference, tmp_path, engine, family):
    """On the CPU that is tests/ranks/test_compile.py."""
    settings = {**FAMILIES[family], **DROPOUT}
    changes = {**ENGINES[engine], "engine__compile": "layers", "train__micro_batch": 2, "train__steps": 3}
    ((outcome, first, last, names),) = on(
        1, train_compiled, configure(1, **settings, **changes, run__root=str(tmp_path))
    )
    assert first == last
    assert first["breaks"] == 0
    assert not [name for name in names if "_orig_mod" in name]
    agree([outcome], reference(**settings))


@pytest.mark.parametrize("device", [cuda()], indirect=True)
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_compiled_recomputation(on, reference, tmp_path, recompute):
    settings = {**FAMILIES["bert"], **DROPOUT}
    agree(
        trained(on, 1, tmp_path, engine__compile="layers", model__recompute=recompute, **settings),
        reference(**settings),
    )


BEFORE = {
    "plain": {},
    "recompute": {"model__recompute": "full"},
    "fp8": {"precision__name": "fp8"},
    "zero_3": ENGINES["deepspeed_3"],
}


@pytest.mark.parametrize("device", [cuda()], indirect=True)
@pytest.mark.parametrize("before", BEFORE)
def test_compiled_after_eager(on, reference, tmp_path, before):
    """In the same process, on another model. On an H100 something of these once lost the gradients of compiled layers."""
    trained(on, 1, tmp_path / "before", **{**FAMILIES["bert"], **DROPOUT, **BEFORE[before]})
    settings = {**FAMILIES["gpt"], **DROPOUT}
    agree(trained(on, 1, tmp_path, engine__compile="layers", **settings), reference(**settings))


@pytest.mark.parametrize("device", [cuda()], indirect=True)
@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_compiled_in_8_bits(on, reference, tmp_path, family):
    settings = {**FAMILIES[family], **DROPOUT, "precision__name": "fp8"}
    outcomes = trained(on, 1, tmp_path, engine__compile="layers", **settings)
    torch.testing.assert_close(
        torch.tensor(outcomes[0].losses), torch.tensor(reference(**settings)[0].losses), rtol=2e-2, atol=0
    )


SPREAD = ["data2", "tensor2_sequence", "pipeline2", "pipeline2_virtual2", "data2_tensor2", "tensor2_context2_sequence"]


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("device", [cuda(2)], indirect=True)
def test_grids(on, reference, tmp_path, name):
    """Of gloo ranks the grids are proved in tests/ranks."""
    size, changes = (GRIDS | CONTEXT)[name]
    if size > torch.cuda.device_count() > 1:
        pytest.skip(f"{size} ranks, and {torch.cuda.device_count()} GPUs")
    settings = {**FAMILIES["bert"], **DROPOUT}
    agree(trained(on, size, tmp_path, engine__zero_stage=1, **settings, **changes), reference(**settings))
