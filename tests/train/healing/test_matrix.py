"""Planted faults of each kind, on each grid, engine and family, and in fine-tuning: what heals ends as what was told."""

import functools
from dataclasses import replace

import pytest

from dist_plm.data.prepare.prepare import prepare
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.prepare.schema import PrepareConfig, PrepareDataConfig, SourceConfig, TokenizerConfig
from tests.ranks.ports import free_port
from tests.ranks.selection import covering
from tests.train import finetuning
from tests.train.conftest import CORPUS
from tests.train.healing.faults import Fault, faulty_case
from tests.train.healing.test_equivalence import records, state_of, tensors
from tests.train.named_sets import make_corpus
from tests.train.running import run_case, settings

pytestmark = pytest.mark.ranks

#: A batch of 8 samples. What is bad at step 16 began with step 15: samples 112 to 127 are skipped.
SKIPPED = [[112, 128]]
FAULTS = {
    "gradient": Fault("gradient", at=8 * 15 + 7, once=True),
    "document": Fault("loss", at=8 * 15 + 7, once=True),
    "rate": Fault("rate", at=15, once=True),
    "bit": Fault("bit", at=13, once=True),
}
#: The number of ranks, and settings.
GRIDS = {
    "data2": (2, {}),
    "tensor2": (2, {"parallel__tensor": 2}),
    "pipeline2": (2, {"parallel__pipeline": 2}),
    "data2_tensor2": (4, {"parallel__tensor": 2}),
    "data2_pipeline2": (4, {"parallel__pipeline": 2}),
}
STAGES = {"megatron": (0, 1), "deepspeed": (0, 1, 2, 3)}
T5 = {"family": "t5", "position": "relative", "norm": "rmsnorm", "bias": False, "init_std": 0.1}
FAMILIES = {
    "gpt": {},
    "bert": {"model__family": "bert", "model__segments": 2, "objective__name": "mlm"},
    "electra": {"model__family": "electra", "model__segments": 2, "objective__name": "rtd"}
    | {"model__heads": 4, "model__generator_heads": 2},
    "t5": {f"model__{name}": value for name, value in T5.items()} | {"objective__name": "span"},
    "classify": {},
}
LONG = {"train__global_batch": 8, "train__eval_samples": 0, "train__steps": 20, "model__vocab_size": None}
#: ZeRO-3 keeps one copy of each weight, and stages share nothing but an embedding, where it is tied.
NOTHING_TO_COMPARE = {("data2", 3), ("pipeline2", "classify")}

Cell = tuple[str, str, int, str, str]


def cells() -> list[Cell]:
    """Fault, grid, ZeRO stage, engine and family."""
    return [
        (fault, grid, stage, engine, family)
        for family in FAMILIES
        for engine, stages in STAGES.items()
        for grid in GRIDS
        for stage in (stages if grid == "data2" else (1,))
        if not (family in ("electra", "t5") and "pipeline" in grid)  # two networks, of which a pipeline makes no chain
        for fault in FAULTS
        if fault != "bit" or not {(grid, stage), (grid, family)} & NOTHING_TO_COMPARE
    ]


QUICK: list[Cell] = [
    ("gradient", "data2", 3, "deepspeed", "gpt"),
    ("document", "tensor2", 1, "megatron", "bert"),
    ("rate", "data2", 2, "deepspeed", "classify"),
    ("bit", "pipeline2", 1, "deepspeed", "bert"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Rows with labels, a store of words, and one whose tokenizer has sentinels."""
    folder = make_corpus(tmp_path_factory.mktemp("corpus"))
    source = SourceConfig(path=f"{CORPUS}/*.txt", document="line")
    data = PrepareDataConfig(sources=(source,), out=str(folder / "sentinels"), split=(0.8, 0.1, 0.1))
    tokenizer = TokenizerConfig(name="unigram", vocab_size=320, sentinels=16)
    prepare(PrepareConfig(data=data, tokenizer=tokenizer), lambda line: None)
    return folder


def config_of(corpus, run_dir, grid, stage, engine, family, **more):
    changes = {**GRIDS[grid][1], **FAMILIES[family], "engine__name": engine, "engine__zero_stage": stage, **more}
    changes |= {"checkpoint__every": 6, "train__micro_batch": 2}
    if family == "classify":
        return finetuning.settings(corpus, run_dir, **changes, train__epochs=3, train__global_batch=8)
    return settings(corpus / ("sentinels" if family == "t5" else "store"), run_dir, **{**LONG, **changes})


@pytest.fixture(scope="module")
def told(ranks, corpus, tmp_path_factory):
    """Runs that were told from the start."""

    @functools.cache
    def told(grid, *more):
        run_dir, size = tmp_path_factory.mktemp("told"), GRIDS[grid][0]
        config = config_of(corpus, run_dir, grid, *more, data__skip_samples=SKIPPED)
        assert ranks.run(size, run_case, config, free_port()) == [0] * size
        return run_dir

    return told


@pytest.mark.parametrize(
    ("fault", "grid", "stage", "engine", "family"), covering(cells(), QUICK, ids=lambda cell: "-".join(map(str, cell)))
)
def test_a_fault_is_healed(ranks, corpus, tmp_path, told, fault, grid, stage, engine, family):
    size = GRIDS[grid][0]
    changes = {"train__heal": {"mode": "on", "window": 16}, "train__observe": {"replicas_every": 1}}
    if fault == "bit":  # no samples are to blame: it ends as told if it was told, too
        changes |= {"data__skip_samples": SKIPPED}
    planted = replace(FAULTS[fault], rank=size - 1, tied=grid == "pipeline2")
    config = config_of(corpus, tmp_path, grid, stage, engine, family, **changes)
    assert ranks.run(size, faulty_case, config, free_port(), planted) == [0] * size
    reference = told(grid, stage, engine, family)
    last = read_metrics(reference / "metrics.jsonl")[-1]["step"]
    (act,) = state_of(tmp_path, last).history
    assert (act["heal"]["noticed"], act["skipped"]) == ((13, []) if fault == "bit" else (16, SKIPPED))
    assert [
        record["heal/noticed"] for record in read_metrics(tmp_path / "metrics.jsonl") if "heal/noticed" in record
    ] == [act["heal"]["noticed"]]
    assert records(tmp_path) == records(reference)
    assert tensors(tmp_path, last) == tensors(reference, last)
    assert tensors(reference, last)
