"""A step of either engine waits for the device at most twice, whatever it trains. CPU stands for the device here."""

import itertools

import pytest
import torch

from bench.host_syncs import HostSyncs, of_step
from tests.ranks.pool import World
from tests.ranks.test_adafactor import ADAFACTOR
from tests.ranks.test_encoders import BERT, ELECTRA
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_lamb import LAMB
from tests.ranks.test_muon import MUON
from tests.ranks.training import build_on, configure, groups_of, rank_batches

MOST = 2
FAMILIES = {"gpt": {}, "bert": BERT, "electra": ELECTRA}
OPTIMIZERS = {"adamw": {}, "lamb": LAMB, "adafactor": ADAFACTOR, "muon": MUON}
#: Each operation is looked at, in Python. What waits for each layer, or for each microbatch, does so with fewer of them too.
FEW = {"model__layers": 2, "train__micro_batch": 2}


def counted(world: World, configs: list) -> list[tuple[int, str]]:
    """Of the third step under each configuration, all on one grid: what is made once is there then."""
    found = []
    groups = groups_of(world, configs[0])
    for config in configs:
        engine = build_on(groups, config)
        for step in range(2):
            engine.train_step(rank_batches(config, groups, step), 1e-3)
        batches = rank_batches(config, groups, 2)
        syncs = of_step(lambda engine=engine, batches=batches: engine.train_step(batches, 1e-3), batches)
        found.append((len(syncs), str(syncs)))
    return found


def check(ranks, world_size: int, configs: list) -> None:
    for told in ranks.run(world_size, counted, configs):
        for config, (count, places) in zip(configs, told, strict=True):
            assert 1 <= count <= MOST, f"{config.model.family}, {config.optim.name}: {count} syncs\n{places}"


@pytest.mark.ranks
@pytest.mark.parametrize("engine", ["megatron", "deepspeed"])
def test_families_and_optimizers(ranks, tmp_path, engine):
    settings = {"engine__name": engine, "engine__zero_stage": 1, "run__root": str(tmp_path), **FEW}
    cells = itertools.product(FAMILIES.values(), OPTIMIZERS.values())
    check(ranks, 1, [configure(1, **settings, **family, **optim) for family, optim in cells])


@pytest.mark.ranks
def test_stages_and_precisions(ranks, tmp_path):
    cells = [("megatron", 0, "fp32"), ("megatron", 1, "bf16"), ("megatron", 1, "fp16"), ("deepspeed", 0, "fp32")]
    cells += [("deepspeed", 1, "bf16"), ("deepspeed", 2, "bf16"), ("deepspeed", 3, "bf16"), ("deepspeed", 3, "fp32")]
    configs = [
        configure(
            1,
            engine__name=engine,
            engine__zero_stage=stage,
            precision__name=precision,
            **({"precision__initial_loss_scale": 1024.0} if precision == "fp16" else {}),
            **BERT,
            **LAMB,
            **FEW,
            run__root=str(tmp_path),
        )
        for engine, stage, precision in cells
    ]
    check(ranks, 1, configs)


@pytest.mark.ranks
@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_a_grid(ranks, tmp_path, optim):
    world_size, changes = GRIDS["tensor2_pipeline2"]
    settings = {"engine__zero_stage": 1, "run__root": str(tmp_path), **changes, **OPTIMIZERS[optim]}
    settings["train__micro_batch"] = FEW["train__micro_batch"]
    check(ranks, world_size, [configure(world_size, **settings, **BERT)])


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.index_put_((x > 0,), x[:2].clone()),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave((x > 0).long()),
        lambda x: torch.where(x > 0),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(4)),
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_what_waits_is_seen(wait):
    values = torch.tensor([1.0, -2.0, 3.0, 0.0])
    assert len(of_step(lambda: wait(values))) == 1


@pytest.mark.parametrize(
    "work",
    [
        lambda x: torch.tensor([1.0, 2.0]).sum().item(),
        lambda x: torch.arange(5).tolist(),
        lambda x: torch.from_numpy(x.numpy() * 2).to(x.device, non_blocking=True),
        lambda x: (x * torch.tensor(2.0)).sum(),
        lambda x: torch.ones(3).to(x.device, non_blocking=True),
        lambda x: x.index_select(0, torch.zeros(2, dtype=torch.long, device=x.device)),
        lambda x: x[1:].mul_(2.0).clamp(min=1.0),
        lambda x: x.masked_fill(x > 0, 0.0),
        lambda x: x.__setitem__(x > 0, 0.0),
        lambda x: x.repeat_interleave((x > 0).long(), output_size=2),
        lambda x: torch._foreach_mul_([x], [x[0].clone()]),
    ],
)
def test_what_does_not_wait_is_not_counted(work):
    values = torch.tensor([1.0, -2.0, 3.0, 0.0])
    assert len(of_step(lambda: work(values))) == 0


def test_backward_passes_are_seen_and_batches_lie_on_the_host():
    weight = torch.ones(4, requires_grad=True)
    batch = {"labels": torch.tensor([1, -1, 2, -1])}
    with HostSyncs([batch]) as syncs:
        assert int((batch["labels"] >= 0).sum()) == 2
        assert len(syncs) == 0
        chosen = weight[batch["labels"].to(weight.device, non_blocking=True) >= 0]
        assert len(syncs) == 1
        chosen.sum().backward()
    assert len(syncs) == 2
    assert "test_host_syncs.py" in str(syncs)
