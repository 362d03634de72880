"""A bit that flips in one replica of a weight: the run goes back to where all were alike, and ends as one in which none did."""

import functools
import os
import signal

import pytest

from dist_plm.engines.megatron.engine import MegatronEngine
from dist_plm.monitor.metrics_file import read_metrics
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.train.healing.faults import Fault, faulty_case, killed_in_rollback_case
from tests.train.healing.test_equivalence import check_same, state_of
from tests.train.running import before, make_store, run_case, settings

pytestmark = pytest.mark.ranks

#: Compared after steps 5, 10 and 15, and before what is saved after steps 4, 8, 12 and 16.
HEAL = {"train__heal": {"mode": "on"}, "train__observe": {"replicas_every": 5}, "checkpoint__every": 4}
HEAL |= {"train__steps": 16, "train__eval_every": 8, "checkpoint__keep": 9, "engine__zero_stage": 0}
HEAL |= {"model__hidden_dropout": 0.1}
COPIES = {**HEAL, "train__heal": {"mode": "on", "memory_every": 3}, "checkpoint__every": 8}
FLIP = Fault("bit", at=9, rank=1, once=True)
NAME = "layers.0.attention_norm.weight"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture(scope="module")
def clean(ranks, store, tmp_path_factory):
    """Runs of each engine without a fault."""

    @functools.cache
    def clean(engine):
        run_dir = tmp_path_factory.mktemp(engine)
        config = settings(store, run_dir, **HEAL, engine__name=engine)
        assert ranks.run(2, run_case, config, free_port()) == [0, 0]
        records = read_metrics(run_dir / "metrics.jsonl")
        assert not [name for record in records for name in record if name.startswith("heal/")]
        return run_dir

    return clean


engines = pytest.mark.parametrize("engine", ["megatron", "deepspeed"])
engines_slowly = pytest.mark.parametrize("engine", ["megatron", pytest.param("deepspeed", marks=pytest.mark.slow)])


@engines
def test_a_flipped_bit_is_gone_back_from_and_no_sample_skipped(ranks, store, tmp_path, engine, clean):
    config = settings(store, tmp_path, **HEAL, engine__name=engine)
    assert ranks.run(2, faulty_case, config, free_port(), FLIP) == [0, 0]
    check_same(tmp_path, clean(engine))
    (act,) = state_of(tmp_path, 16).history
    assert (act["step"], act["skipped"], act["heal"]["rate"]) == (8, [], 1.0)
    said = f"do not agree on {NAME}; went back to step 8, no samples are skipped"
    assert act["changes"][0].startswith("step 10: ranks 0 (")
    assert act["changes"][0].endswith(said)
    healed = {k: v for r in read_metrics(tmp_path / "metrics.jsonl") for k, v in r.items() if k.startswith("heal/")}
    assert healed == {"heal/rollbacks": 1, "heal/noticed": 10, "heal/step": 8, "heal/skipped_samples": 0}
    told = (tmp_path / "log" / "rank_00000.log").read_text()
    assert f"healing: {act['changes'][0]}" in told


@pytest.mark.parametrize(
    ("at", "victim"),
    [*(pytest.param(at, 0, marks=pytest.mark.slow) for at in (1, 2, 3)), (3, 1)],
)
@engines
def test_killed_while_it_goes_back_it_ends_in_the_same_way(ranks, store, tmp_path, engine, clean, at, victim):
    config = settings(store, tmp_path, **HEAL, engine__name=engine)
    with pytest.raises(RanksError, match="died with exit code -9"):
        ranks.run(2, killed_in_rollback_case, config, free_port(), FLIP, at, victim)
    assert ranks.run(2, run_case, config, free_port()) == [0, 0]
    check_same(tmp_path, clean(engine))
    assert len(state_of(tmp_path, 16).history) == (at == 3), "else it is not written down yet, and now no bit flips"


@engines_slowly
def test_copies_in_memory_are_of_weights_that_were_alike(ranks, store, tmp_path, engine, clean):
    config = settings(store, tmp_path, **COPIES, engine__name=engine)
    assert ranks.run(2, faulty_case, config, free_port(), Fault("bit", at=12, rank=1, once=True)) == [0, 0]
    check_same(tmp_path, clean(engine), steps=(8, 16))
    (act,) = state_of(tmp_path, 16).history
    assert (act["step"], act["skipped"]) == (8, [])
    assert act["changes"][0].startswith("step 12: ")
    assert "went back to step 9" in act["changes"][0], "the copy of step 12 was not made"


@pytest.mark.parametrize("at", [7, pytest.param(16, marks=pytest.mark.slow)])
@engines_slowly
def test_no_checkpoint_is_made_of_weights_that_differ(ranks, store, tmp_path, engine, clean, at):
    config = settings(store, tmp_path, **HEAL, engine__name=engine)
    assert ranks.run(2, faulty_case, config, free_port(), Fault("bit", at=at, rank=1, once=True)) == [0, 0]
    check_same(tmp_path, clean(engine))
    (act,) = state_of(tmp_path, 16).history
    step = 4 * -(-at // 4)
    assert act["changes"][0].startswith(f"step {step}: ")
    assert act["step"] == step - 4


@engines_slowly
def test_samples_are_not_blamed_for_a_bit_that_flips(ranks, store, tmp_path, engine, clean):
    """One of the exponent: a weight of 1 becomes infinite, and so the loss of the next step, before weights are compared."""
    config = settings(store, tmp_path, **HEAL, engine__name=engine)
    assert ranks.run(2, faulty_case, config, free_port(), Fault("bit", at=6, rank=1, once=True, bit=30)) == [0, 0]
    check_same(tmp_path, clean(engine))
    (act,) = state_of(tmp_path, 16).history
    assert act["skipped"] == []
    assert "the loss is " in act["changes"][0]
    assert NAME in act["changes"][0]


@engines_slowly
def test_passes_that_differ_are_gone_back_from_where_weights_do(ranks, store, tmp_path, engine, clean):
    """Only what is saved is compared besides."""
    looks = {"train__observe": {"replicas_every": 0, "passes_every": 5}}
    config = settings(store, tmp_path, **{**HEAL, **looks}, engine__name=engine)
    assert ranks.run(2, faulty_case, config, free_port(), FLIP) == [0, 0]
    check_same(tmp_path, clean(engine))
    (act,) = state_of(tmp_path, 16).history
    assert act["changes"][0].startswith("step 10: ranks 0 (")
    assert NAME in act["changes"][0]
    assert act["step"] == 8


@pytest.mark.parametrize(
    ("on_mismatch", "rollbacks", "noticed", "agreed", "latest"),
    [("warn", 2, 10, 8, 8), pytest.param("stop", 0, 8, 5, 4, marks=pytest.mark.slow)],
)
def test_what_comes_again_ends_the_run(ranks, store, tmp_path, on_mismatch, rollbacks, noticed, agreed, latest):
    """And at once where that is asked for. Every sixth step that is made flips a bit."""
    heal = {"train__heal": {"mode": "on", "most": 2}}
    observe = {"train__observe": {"replicas_every": 5, "on_mismatch": on_mismatch}}
    config = settings(store, tmp_path, **{**HEAL, **heal, **observe})
    with pytest.raises(RanksError, match=f"ReplicasDifferError: step {noticed}: .* do not agree on {NAME}") as told:
        ranks.run(2, faulty_case, config, free_port(), Fault("bit", at=6, rank=1))
    assert ("after 2 rollbacks within 1000 steps" in str(told.value)) == (rollbacks > 0)
    assert f"Replicas agreed last after step {agreed}" in str(told.value)
    assert (tmp_path / "checkpoints" / "latest").read_text().strip() == f"step_{latest:08d}"
    assert len(state_of(tmp_path, latest).history) == rollbacks


def stopped_case(world, config, port, fault):
    """A run of which a rank gets SIGTERM in step 7."""
    with before(MegatronEngine, "train_step", 7, lambda: os.kill(os.getpid(), signal.SIGTERM) if world.rank else None):
        return faulty_case(world, config, port, fault)


def test_a_run_that_is_stopped_does_not_save_weights_that_differ(ranks, store, tmp_path, clean):
    config = settings(store, tmp_path, **HEAL)
    assert ranks.run(2, stopped_case, config, free_port(), Fault("bit", at=6, rank=1, once=True)) == [75, 75]
    assert (tmp_path / "checkpoints" / "latest").read_text().strip() == "step_00000004"
    assert "step 7 is not saved" in (tmp_path / "log" / "rank_00000.log").read_text()
    assert ranks.run(2, run_case, config, free_port()) == [0, 0]
    check_same(tmp_path, clean("megatron"))
