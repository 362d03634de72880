"""Steps are traced on the ranks that are chosen: those of the settings, and those that a running run is asked for."""

import errno
import gzip
import json
import os
from pathlib import Path

import pytest
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent

from dist_plm.engines.deepspeed.engine import DeepSpeedEngine
from dist_plm.engines.megatron.engine import MegatronEngine
from dist_plm.monitor.report import load_run, render_report
from dist_plm.monitor.report_page.run_tables import operations_of, tables_of
from dist_plm.train.observing import step_profile
from tests.ranks.pool import World
from tests.ranks.ports import free_port
from tests.train.running import before, make_store, run_case, settings

_ENGINES = {"megatron": MegatronEngine, "deepspeed": DeepSpeedEngine}


def asked_case(world: World, config, port: int, before_step: int, asked: str) -> int:
    """A run that is asked for a profile while a step is made."""
    step_profile.LOOK_SECONDS = 0.0

    def ask() -> None:
        if world.rank == 0:
            with open(f"{config.run.dir}/{step_profile.REQUEST}", "w") as file:
                file.write(asked)

    try:
        with before(_ENGINES[config.engine.name], "train_step", before_step, ask):
            return run_case(world, config, port)
    finally:
        step_profile.LOOK_SECONDS = 2.0


def steps_in(trace) -> int:
    """How many updates a trace holds."""
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return sum(str(event.get("name", "")).startswith("Optimizer.step#") for event in events)


@pytest.mark.ranks
@pytest.mark.parametrize(
    "grid",
    [
        {},
        {"engine__name": "deepspeed", "engine__zero_stage": 3},
        pytest.param({"engine__name": "deepspeed", "parallel__tensor": 2}, marks=pytest.mark.slow),
        pytest.param({"parallel__tensor": 2}, marks=pytest.mark.slow),
        pytest.param({"parallel__pipeline": 2}, marks=pytest.mark.slow),
    ],
)
def test_chosen_steps_and_those_that_are_asked_for(ranks, tmp_path, grid):
    store, run_dir = make_store(tmp_path / "tokens"), tmp_path / "run"
    profile = {"steps": [2, 3], "ranks": [1]}
    config = settings(store, run_dir, train__profile=profile, train__eval_samples=0, train__steps=10, **grid)
    assert ranks.run(2, asked_case, config, free_port(), 5, "3\n") == [0, 0]
    names = sorted(path.name for path in (run_dir / "profiles").iterdir())
    traces = ["step_00000002_rank_00001.json.gz", "step_00000006_rank_00001.json.gz"]
    assert names == ["operations_00001.json", *traces], "all ranks notice it before the same step"
    told = 2 if config.engine.name == "deepspeed" else 1  # its optimizer tells of an update without and within
    assert [steps_in(run_dir / "profiles" / name) for name in traces] == [2 * told, 3 * told]
    assert not (run_dir / step_profile.REQUEST).exists()
    (table,) = [one for one in tables_of(run_dir) if "operations" in one["title"]]
    assert "steps 6 to 8 on rank 1" in table["title"]
    assert len(table["rows"]) > 10
    assert table["rows"][1][0] in render_report([load_run(run_dir)])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ((2, 2), [(2, 3), (5, 6)]),
        ((3, 2), [(3, 4), (5, 6)]),
        ((4, 2), [(4, 6)]),
        ((6, 3), [(5, 8)]),
        ((8, 1), [(5, 6), (8, 8)]),
    ],
)
def test_steps_that_are_asked_for_come_beside_those_of_the_settings(tmp_path, caplog, asked, told):
    from dist_plm.distributed.groups import alone
    from dist_plm.spec.schema_run import ProfileConfig

    profile = step_profile.StepProfile(ProfileConfig(steps=(5, 6), ranks=(0,)), tmp_path, 0, alone().device)
    profile.ask(*asked)
    with caplog.at_level("INFO"):
        for step in [*range(1, 8), *range(3, 11)]:  # the run goes back
            with profile.step(step):
                pass
    expected = [f"profiled steps {first} to {last}:" for first, last in told]
    assert [message[: len(one)] for message, one in zip(caplog.messages, expected, strict=True)] == expected


@pytest.mark.parametrize("said", ["", "x", "0", "1e9", "\xff"])
def test_what_is_no_number_asks_for_one_step(tmp_path, said):
    from dist_plm.distributed.groups import alone
    from dist_plm.spec.schema_run import ProfileConfig

    profile = step_profile.StepProfile(ProfileConfig(), tmp_path, 0, alone().device)
    assert profile.take_request() == 0
    profile._next_look = 0.0
    (tmp_path / step_profile.REQUEST).write_text(said)
    assert profile.take_request() == 1
    assert not (tmp_path / step_profile.REQUEST).exists()


def test_a_directory_that_is_away_asks_for_nothing(tmp_path, monkeypatch, caplog):
    """Rank 0 alone looks, and others wait for what it says."""
    from dist_plm.distributed.groups import alone
    from dist_plm.spec.schema_run import ProfileConfig

    def stale(*_, **__):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "exists", stale)
    assert step_profile.StepProfile(ProfileConfig(), tmp_path, 0, alone().device).take_request() == 0
    assert "whether a profile is asked for cannot be told: Stale file handle" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", '{"operations": 3}\n', '{"operations": [3, {"name": []}]}\n'])
def test_files_that_no_profile_wrote_are_no_obstacle(tmp_path, content):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "operations_00000.json").write_text(content)
    operations_of(tmp_path)


def test_what_the_host_names_is_no_operation_of_the_device():
    """Two kernels that an optimizer launches, and the span that it leaves beside them on the GPU: as PyTorch tells them."""
    spans = [("first", 0, 10, False), ("second", 90, 100, False), ("Optimizer.step#AdamW.step", 0, 100, True)]
    events = [
        FunctionEvent(
            number, name, 0, start, end, stack=[], use_device="cuda", device_type=device, is_user_annotation=named
        )
        for number, (name, start, end, named, device) in enumerate(
            [*((*span, DeviceType.CUDA) for span in spans), (*spans[2], DeviceType.CPU)]
        )
    ]
    found = EventList(events, use_device="cuda")
    found._build_tree()
    rows = step_profile.longest(found.key_averages())
    assert [(row["name"], row["host_ms"], row["device_ms"]) for row in rows] == [
        ("first", 0.0, 0.01),
        ("second", 0.0, 0.01),
        ("Optimizer.step#AdamW.step", 0.1, 0.0),
    ]
