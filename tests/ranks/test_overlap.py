"""Communication behind computation trains what plain communication does, however late or early it is done.

Of what overlaps, gloo shows nothing by itself: its messages are there before anything could read what they bring. So here
gathers are done where they are waited for, and until then what they bring is not a number; reductions are done at once,
before anything that comes too late for them.
"""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup as BucketGroup

from dist_plm.engines.megatron import engine as megatron_engine
from dist_plm.spec.engines import MegatronConfig
from dist_plm.train.stopping import StopRequestedError
from tests.ranks.engine_runs import agree, losses_case, train_case, trainer
from tests.ranks.labelled import Learned, configured, learn_case
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_encoders import DROPOUT, MODELS
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_grids import MODELS as DECODERS
from tests.ranks.test_trained_parts import NETWORKS, PARTS
from tests.ranks.training import Outcome, build, configure, learning_rates, rank_batches

pytestmark = pytest.mark.ranks

OVERLAP = {"engine__overlap_grad_reduce": True, "engine__overlap_param_gather": True, "engine__zero_stage": 1}
#: Elements, so that a tiny model has several buckets; `engine.bucket_mib` is in whole MiB.
BUCKET = 4096
#: Each family, and what has more than one network or ties weights over stages.
FAMILIES = {
    "gpt2": DECODERS["gpt2"],
    "llama": DECODERS["llama"],
    **{name: MODELS[name] for name in ("bert", "roberta", "electra", "t5")},
    # ReLU's derivative jumps: of a value that is 0 but for rounding it says nothing.
    "transformer": {**MODELS["transformer"], "model__activation": "gelu"},
}
CELLS = [
    (family, grid)
    for family, settings in FAMILIES.items()
    for grid in ("data2", "data2_tensor2_sequence", "data2_pipeline2", "data2_pipeline2_virtual2")
    if "pipeline" not in grid or settings.get("model__family", "gpt") in ("gpt", "bert", "roberta")
]
QUICK = [("electra", "data2"), ("gpt2", "data2_pipeline2_virtual2")]
PARTLY = [
    (network, task, part, grid)
    for network, task in (("bert", "classify"), ("gpt", "packed"), ("t5", "answered"))
    for part in PARTS
    for grid in ("data2", "data2_tensor2_sequence", "data2_pipeline2")
    if network != "t5" or "pipeline" not in grid
]


class _Late:
    """Stands for a gather that is under way."""

    def __init__(self, group: BucketGroup) -> None:
        self._group = group

    def wait(self) -> None:
        self._group.param_gather_handle = None
        _GATHER(self._group, force_sync=True)


_GATHER, _REDUCE = BucketGroup.start_param_sync, BucketGroup.start_grad_sync


def _gather_late(group: BucketGroup, force_sync: bool = False) -> None:
    if force_sync:
        _GATHER(group, force_sync=True)
        return
    ranks, own = group.intra_distributed_optimizer_instance_size, group.intra_distributed_optimizer_instance_rank
    for bucket in group.buckets:
        for rank, shard in enumerate(bucket.param_data.chunk(ranks)):
            if rank != own:
                shard.fill_(float("nan"))
    group.param_gather_handle, group.param_gather_dispatched = _Late(group), True


def _reduce_early(group: BucketGroup, force_all_reduce: bool | None = False) -> None:
    _REDUCE(group, force_all_reduce)
    if group.grad_reduce_handle is not None:
        group.grad_reduce_handle.wait()


@contextlib.contextmanager
def worst_times() -> Iterator[None]:
    """Within, gathers come as late and reductions as early as they may, of small buckets."""
    sizes = megatron_engine.DistributedDataParallelConfig
    BucketGroup.start_param_sync, BucketGroup.start_grad_sync = _gather_late, _reduce_early
    megatron_engine.DistributedDataParallelConfig = lambda **given: sizes(**{**given, "bucket_size": BUCKET})
    try:
        yield
    finally:
        BucketGroup.start_param_sync, BucketGroup.start_grad_sync = _GATHER, _REDUCE
        megatron_engine.DistributedDataParallelConfig = sizes


def trained_at_worst(world: World, config) -> Outcome:
    with worst_times():
        return train_case(world, config)


def learned_at_worst(world: World, config, task: str) -> Learned:
    with worst_times():
        return learn_case(world, config, task)


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    return trainer(ranks, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(("family", "grid"), covering(CELLS, QUICK))
def test_families(ranks, train, tmp_path, family, grid):
    (size, changes), settings = GRIDS[grid], FAMILIES[family]
    config = configure(size, **settings, **changes, **OVERLAP, run__root=str(tmp_path))
    agree(ranks.run(size, trained_at_worst, config), train(1, **settings))


@pytest.mark.parametrize(
    ("network", "task", "part", "grid"), covering(PARTLY, [("bert", "classify", "adapters", "data2")])
)
def test_what_is_trained_in_part(ranks, tmp_path, network, task, part, grid):
    size, changes = GRIDS[grid]
    settings = {**NETWORKS[network], **DROPOUT, **PARTS[part](network), "run__root": str(tmp_path)}
    outcomes = ranks.run(size, learned_at_worst, configured(size, task, **settings, **changes, **OVERLAP), task)
    agree(outcomes, ranks.run(1, learn_case, configured(1, task, **settings), task))


def losses_where_lending_ends_early(world: World, config) -> list[float]:
    engine, groups = build(world, config)
    losses = []
    for step, lr in list(enumerate(learning_rates(config)))[:3]:
        with contextlib.suppress(StopRequestedError), engine.lend():
            raise StopRequestedError
        losses.append(engine.train_step(rank_batches(config, groups, step), lr).loss)
    return losses


def losses_at_worst(world: World, config, case: Callable[..., list[float]]) -> list[float]:
    with worst_times():
        return case(world, config)


@pytest.mark.parametrize(
    "changes", [OVERLAP, pytest.param({"engine__name": "deepspeed", "engine__zero_stage": 3}, marks=pytest.mark.slow)]
)
def test_a_signal_while_the_model_is_lent_leaves_the_engine_as_it_was(ranks, changes):
    config = configure(2, **changes)
    ended = ranks.run(2, losses_at_worst, config, losses_where_lending_ends_early)
    assert ended == ranks.run(2, losses_at_worst, config, losses_case)


@pytest.mark.parametrize(
    ("settings", "on_gpus", "early"),
    [
        ({}, True, (True, True)),
        ({}, False, (False, False)),
        ({"zero_stage": 0}, True, (True, False)),
        ({"overlap_grad_reduce": False}, True, (False, False)),
        ({"overlap_param_gather": False}, True, (True, False)),
        ({"overlap_param_gather": True}, False, (True, True)),
        ({"overlap_grad_reduce": True}, False, (True, False)),
    ],
)
def test_by_default_all_overlaps_on_gpus(settings, on_gpus, early):
    engine = MegatronConfig(**settings)
    assert (engine.overlaps(on_gpus=on_gpus), engine.overlaps_gather(on_gpus=on_gpus)) == early
