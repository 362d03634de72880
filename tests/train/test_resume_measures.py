"""A run that measures more than its loss, keeps its best checkpoint and waits for a better one: killed on the way and gone on
with, it ends as if it had not been, to the bit on the same grid, and with the same decisions on another."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dist_plm.checkpoint.open_checkpoint import look_at
from dist_plm.checkpoint.saver import CheckpointWriter
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.spec.schema import TrainingConfig
from dist_plm.tasks.evaluate.named_sets import NamedSets
from dist_plm.train.evaluation import Evaluator
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.train.finetuning import records
from tests.train.finetuning import settings as labelled
from tests.train.named_sets import BERT, case, make_corpus, sets
from tests.train.running import before, run_case

pytestmark = pytest.mark.ranks

RANKS = 2
#: Before which call a rank is killed: of what is evaluated, of the sets that are evaluated after it, of a save.
POINTS: dict[str, tuple[Any, str]] = {
    "evaluation": (Evaluator, "__call__"),
    "named sets": (NamedSets, "__call__"),
    "save": (CheckpointWriter, "save"),
}
GRIDS: dict[str, dict[str, Any]] = {
    "tensor": {"parallel__tensor": 2},
    "pipeline": {"parallel__pipeline": 2},
    "zero 3": {"engine__zero_stage": 3, "engine__name": "deepspeed"},
}
DROPOUT = {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1}
PRETRAIN = {
    **DROPOUT,
    "train__steps": 14,
    "model__layers": 2,
    "optim__lr": 1e-2,
    "checkpoint__keep": 1,
    "checkpoint__background": False,
}
FINETUNE = {"train__eval_every": 4, "train__micro_batch": 6, "checkpoint__keep": 1, "checkpoint__background": False}
SIZES = {"layers": 2, "hidden": 32, "heads": 2, "init_std": 0.1, "hidden_dropout": 0.1}
BERT_MODEL = {"family": "bert", **SIZES}


def stopping(metric: str, patience: int) -> dict[str, Any]:
    return {"train__early_stopping": {"metric": metric, "patience": patience}}


#: Whether it pretrains, and its settings.
KINDS: dict[str, tuple[bool, dict[str, Any]]] = {
    "named sets": (True, stopping("probe/accuracy", 2)),
    "named sets of bert": (True, {**BERT, **stopping("probe/accuracy", 2)}),
    "classify": (False, {"model": BERT_MODEL, **stopping("accuracy", 2)}),
    "tag": (False, {"model": BERT_MODEL, "task__name": "tag", **stopping("strict_f1", 2)}),
    "written": (
        False,
        {
            "model": {"family": "t5", "position": "relative", "norm": "rmsnorm", "bias": False, **SIZES},
            "task__name": "seq2seq",
            "data__columns": {"source": "turn.en", "target": "turn.answer"},
            "optim__lr": 8e-3,
            **stopping("exact_match", 2),
        },
    ),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def signalled(world, config: TrainingConfig, port: int, sent: signal.Signals, point: str, at: int) -> int:
    """A run whose last rank gets a signal before the `at`-th call of a point."""
    if world.rank < world.size - 1:
        return run_case(world, config, port)
    owner, name = POINTS[point]
    with before(owner, name, at, lambda *_: os.kill(os.getpid(), sent)):
        return run_case(world, config, port)


def kept(run_dir: Path) -> tuple[list[int], dict[str, Any], dict[str, float]]:
    """The checkpoints that a run left; what its newest one says of waiting, and of the measures."""
    found, problems = look_at(str(run_dir))
    assert problems == []
    state = found.train_state
    return LocalStorage(run_dir / "checkpoints").steps(), state.loop["patience"], dict(state.evaluation)


def assert_alike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Losses within rounding; what is counted to the bit."""
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert set(mine) == set(other)
        for name, value in other.items():
            is_count = value is None or name.endswith(("accuracy", "f1", "exact_match", "_seen", "step"))
            assert mine[name] == (value if is_count else pytest.approx(value, rel=3e-4, abs=5e-5)), (
                other["step"],
                name,
            )


def case_of(kind: str, corpus: Path, run_dir: Path, **changes: Any) -> TrainingConfig:
    """A run that measures what its kind says, and may end early by it."""
    pretrains, settings = KINDS[kind]
    if pretrains:
        return case(corpus, run_dir, evaluate__tasks=sets(corpus), **{**PRETRAIN, **settings, **changes})
    return labelled(corpus, run_dir, **{**FINETUNE, **settings, **changes})


@pytest.fixture(scope="module")
def whole_of(ranks, corpus, tmp_path_factory):
    """The uninterrupted run of each kind, made once; one that ended early, some evaluations after its best."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("whole")
            assert ranks.run(RANKS, run_case, case_of(kind, corpus, made[kind]), free_port()) == [0] * RANKS
        return made[kind]

    return of


def slow(*cell: Any) -> Any:
    return pytest.param(*cell, marks=pytest.mark.slow)


def test_a_run_in_pieces_waits_as_a_whole_one_does(ranks, corpus, whole_of, tmp_path) -> None:
    """What `train.stop_at` ends is measured then, and a whole run is not."""
    whole = whole_of("classify")
    for changes in ({"train__stop_at": 6}, {}):
        piece = case_of("classify", corpus, tmp_path, **changes)
        assert ranks.run(RANKS, run_case, piece, free_port()) == [0] * RANKS
    assert [record["step"] for record in records(tmp_path)] == [record["step"] for record in records(whole)]
    assert "eval/accuracy" in records(tmp_path)[5]
    assert kept(tmp_path)[1] == kept(whole)[1]


@pytest.mark.parametrize(
    ("kind", "point", "at", "grid"),
    [
        ("named sets", "named sets", 4, "tensor"),
        ("classify", "save", 6, "tensor"),
        slow("named sets", "evaluation", 7, None),  # twice each time: one of the sets is too
        slow("named sets of bert", "save", 5, None),
        slow("named sets of bert", "evaluation", 12, "zero 3"),
        slow("classify", "evaluation", 7, None),
        slow("classify", "save", 6, "zero 3"),
        slow("tag", "save", 4, "pipeline"),
        slow("tag", "evaluation", 5, None),
        slow("written", "save", 5, None),
        slow("written", "evaluation", 6, "tensor"),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(ranks, corpus, whole_of, tmp_path, kind, point, at, grid) -> None:
    whole = whole_of(kind)
    found, (steps, waiting, measures) = records(whole), kept(whole)
    assert steps == sorted({waiting["best_step"], found[-1]["step"]})
    assert len(steps) == 2, "it ended early, after its best"
    with pytest.raises(RanksError, match="exit code -9"):
        ranks.run(RANKS, signalled, case_of(kind, corpus, tmp_path), free_port(), signal.SIGKILL, point, at)
    resumed_at, begun, _ = kept(tmp_path)
    assert resumed_at[-1] < found[-1]["step"]
    assert 0 < begun["waited"] < waiting["waited"], "it goes on in the middle of waiting"
    again = case_of(kind, corpus, tmp_path, **GRIDS.get(grid, {}))
    assert ranks.run(RANKS, run_case, again, free_port()) == [0] * RANKS
    if grid is not None:
        assert_alike(records(tmp_path), found)
        steps_there, waiting_there, _ = kept(tmp_path)
        assert (steps_there, waiting_there) == (steps, {**waiting, "best": pytest.approx(waiting["best"], rel=3e-4)})
        return
    assert records(tmp_path) == found
    assert kept(tmp_path) == (steps, waiting, measures)
    assert ranks.run(RANKS, run_case, again, free_port()) == [0] * RANKS
    assert records(tmp_path) == found, "a finished run stays as it is"


@pytest.mark.parametrize(
    ("kind", "point", "at", "step"), [("classify", "evaluation", 5, 16), slow("named sets", "named sets", 2, 2)]
)
def test_the_best_checkpoint_stays_whose_evaluation_a_signal_ended(
    ranks, corpus, whole_of, tmp_path, kind, point, at, step
) -> None:
    """It was saved without its measures, which the run makes up for as it goes on."""
    config, (steps, waiting, measures) = case_of(kind, corpus, tmp_path), kept(whole_of(kind))
    assert waiting["best_step"] == step
    assert ranks.run(RANKS, signalled, config, free_port(), signal.SIGTERM, point, at) == [75] * RANKS
    assert LocalStorage(tmp_path / "checkpoints").steps()[-1] == step
    assert ranks.run(RANKS, run_case, config, free_port()) == [0] * RANKS
    assert records(tmp_path) == records(whole_of(kind))
    assert kept(tmp_path) == (steps, waiting, measures)
