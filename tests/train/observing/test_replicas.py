"""A bit flipped in one replica of a weight is found and named, on every grid, engine and ZeRO stage; nothing else is."""

import pytest
import torch
import torch.distributed as dist

from dist_plm.train.observing.replicas import Mismatch, Replicas, fingerprint, mismatches, odd_pass
from tests.parts import engine_of, model_of
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_grids import GRIDS
from tests.ranks.training import configure, groups_of, learning_rates, losses_of, rank_batches

NORM, MATRIX = "layers.1.attention_norm.weight", "layers.1.mlp.down.weight"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_each_bit_counts(dtype):
    values = torch.randn(257).to(dtype)
    bits = values.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[values.element_size()])
    seen = {int(fingerprint(values))}
    for bit in range(8 * values.element_size() - 1):
        bits[100] ^= 1 << bit
        seen.add(int(fingerprint(values)))
        bits[100] ^= 1 << bit
    assert len(seen) == 8 * values.element_size()


def test_who_is_outvoted():
    told = [[((0, 1, 2), "a", 5), ((0, 1, 2), "b", 1)], [((0, 1, 2), "a", 6), ((0, 1, 2), "b", 2)]]
    told += [[((0, 1, 2), "a", 5), ((0, 1, 2), "b", 1)], []]
    (found,) = mismatches(told)
    assert found == Mismatch("a; b", (0, 1, 2), (1,))
    assert found.told(["x", "y", "z", "z"]) == "rank 1 (y) does not agree with ranks 0 (x), 2 (z) on a; b"
    (pair,) = mismatches([[((0, 1), "a", 5)], [((0, 1), "a", 6)]])
    assert pair.told(["x", "y"]) == "ranks 0 (x), 1 (y) do not agree on a"


class Traffic:
    """Counts collectives and the bytes that they take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        monkeypatch.setattr(dist, "all_reduce", self._counted(dist.all_reduce))

    def _counted(self, original):
        def counted(tensor, *more, **options):
            self.sizes.append(tensor.nbytes)
            return original(tensor, *more, **options)

        return counted


def flipped(parameter: torch.Tensor, bit: int) -> None:
    """Flips a bit of the first element."""
    values = getattr(parameter, "ds_tensor", parameter).data.view(-1)
    values.view(torch.int32)[:1] ^= 1 << bit


def flip_case(world: World, config, name: str) -> tuple:
    """What is found before and after a bit of a weight flips on the last rank, and what looking costs."""
    groups = groups_of(world, config)
    device = groups.device.torch_device
    model, shard_specs = model_of(config, groups, device)
    engine = engine_of(config, groups, device, model, losses_of(config))
    for step, lr in list(enumerate(learning_rates(config)))[:3]:
        engine.train_step(rank_batches(config, groups, step), lr)
    replicas = Replicas(shard_specs, groups, exact=True)
    with pytest.MonkeyPatch.context() as patch:
        traffic = Traffic(patch)
        clean = replicas.odd(engine)
    batch = rank_batches(config, groups, 0)[0]
    clean += odd_pass(engine, batch, groups)
    if groups.rank == groups.grid.size - 1:
        (spec,) = [one for one in shard_specs if one.shards[0].name == name]
        flipped(spec.parameter, 20)
    found = replicas.odd(engine)
    passes = odd_pass(engine, batch, groups)
    return clean, found, passes, traffic.sizes, len(shard_specs)


CELLS = [
    ("data2", "megatron", 0, MATRIX),
    ("data4", "megatron", 1, MATRIX),
    ("data2_tensor2", "megatron", 0, MATRIX),
    ("data2_tensor2_sequence", "megatron", 1, NORM),
    ("data2_pipeline2", "megatron", 1, "layers.3.mlp.down.weight"),
    ("tensor2_pipeline2", "megatron", 0, "layers.3.attention_norm.weight"),
    ("data2_pipeline2_virtual2", "megatron", 1, "layers.3.mlp.down.weight"),
    ("pipeline2", "megatron", 0, "embedding.word.weight"),
    ("data2", "deepspeed", 0, MATRIX),
    ("data2", "deepspeed", 1, MATRIX),
    ("data4", "deepspeed", 2, MATRIX),
    ("data2_tensor2", "deepspeed", 3, NORM),
    ("data2_pipeline2", "deepspeed", 1, "layers.3.mlp.down.weight"),
    ("data2_tensor2_sequence", "deepspeed", 2, NORM),
]
QUICK = [CELLS[1], CELLS[5], CELLS[11], CELLS[12]]


@pytest.mark.ranks
@pytest.mark.parametrize(("grid", "engine", "zero_stage", "name"), covering(CELLS, QUICK))
def test_a_flipped_bit_is_found(ranks, tmp_path, grid, engine, zero_stage, name):
    size, changes = GRIDS[grid]
    changes = {**changes, "engine__name": engine, "engine__zero_stage": zero_stage, "run__root": str(tmp_path)}
    config = configure(size, **changes)
    outcomes = ranks.run(size, flip_case, config, name)
    assert [clean for clean, *_ in outcomes] == [[]] * size, "nothing is found where nothing is wrong"
    assert {mismatch.what for mismatch in mismatches([found for _, found, *_ in outcomes])} == {name}
    for mismatch in mismatches([found for _, found, *_ in outcomes]):
        assert size - 1 in mismatch.odd
    if config.parallel.data > 1 and zero_stage < 3:  # else all data ranks compute with the same weights
        (mismatch,) = mismatches([passes for _, _, passes, *_ in outcomes])
        assert size - 1 in mismatch.odd
    for _, _, _, sizes, num_weights in outcomes:
        assert len(sizes) <= 3, "a collective for each axis that replicates"
        assert sum(sizes) <= 3 * 16 * num_weights, "two integers for each weight"


def damaged_state_case(world: World, config, state: str) -> tuple:
    """What is found once a bit of a state of the optimizer has flipped on the last rank, before and after the next update."""
    groups = groups_of(world, config)
    model, shard_specs = model_of(config, groups, groups.device.torch_device)
    engine = engine_of(config, groups, groups.device.torch_device, model, losses_of(config))
    rates = learning_rates(config)
    for step in range(3):
        engine.train_step(rank_batches(config, groups, step), rates[step])
    for own in engine.parameter_states():
        if own.shard_spec.shards[0].name == MATRIX and groups.rank == groups.grid.size - 1:
            own.tensors[state].view(-1).view(torch.int32)[:1] ^= 1 << 22
    replicas = Replicas(shard_specs, groups, exact=True)
    at_once = replicas.odd(engine)
    engine.train_step(rank_batches(config, groups, 3), rates[3])
    return at_once, replicas.odd(engine)


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("engine", "precision", "state"),
    [
        ("megatron", "fp32", "exp_avg_sq"),
        pytest.param("megatron", "bf16", "exp_avg", marks=pytest.mark.slow),
        pytest.param("megatron", "bf16", "weight", marks=pytest.mark.slow),
        pytest.param("deepspeed", "fp32", "exp_avg", marks=pytest.mark.slow),
    ],
)
def test_a_flipped_bit_of_the_optimizer_shows_in_the_next_weights(ranks, tmp_path, engine, precision, state):
    size, changes = GRIDS["data2"]
    changes = {**changes, "engine__name": engine, "engine__zero_stage": 0, "precision__name": precision}
    outcomes = ranks.run(size, damaged_state_case, configure(size, **changes, run__root=str(tmp_path)), state)
    assert [at_once for at_once, _ in outcomes] == [[]] * size, "moments and masters are not compared themselves"
    (mismatch,) = mismatches([found for _, found in outcomes])
    assert mismatch.what == MATRIX
