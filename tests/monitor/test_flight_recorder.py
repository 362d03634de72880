"""Which collective a hang is told by, from dumps as PyTorch's recorders write them."""

import json

import pytest

from dist_plm.monitor import flight_recorder
from dist_plm.monitor.flight_recorder import flight_record, last_collective


def entry(name, time, state="completed", number=1):
    group = ["0", "default_pg"]
    return {
        "profiling_name": name,
        "time_created_ns": time,
        "state": state,
        "collective_seq_id": number,
        "process_group": group,
    }


@pytest.fixture
def recorders(monkeypatch):
    """Puts dumps in the place of PyTorch's: entries by the name of the function, None where it is not there."""

    def put(nccl, gloo):
        for name, entries in (("_dump_nccl_trace_json", nccl), ("_dump_fr_trace_json", gloo)):
            monkeypatch.delattr(flight_recorder.c10d, name, raising=False)
            if entries is not None:
                text = json.dumps({"version": "2.10", "pg_config": {}, **({"entries": entries} if entries else {})})
                monkeypatch.setattr(flight_recorder.c10d, name, lambda text=text, **_: text, raising=False)

    return put


def test_the_collective_of_nccl_that_hangs_counts_and_not_what_gloo_did_since(recorders):
    stuck = entry("nccl:all_reduce", 20, "started", 8)
    recorders([entry("nccl:all_gather", 10), stuck], [entry("gloo:all_reduce", 5), entry("gloo:all_reduce", 30)])
    record = flight_record()
    assert record is not None
    assert [e["time_created_ns"] for e in record["entries"]] == [5, 10, 20, 30]
    assert last_collective(record) == "nccl:all_reduce number 8 of group default_pg"


@pytest.mark.parametrize(
    ("nccl", "gloo", "expected"),
    [
        ([entry("nccl:broadcast", 1)], None, "nccl:broadcast number 1 of group default_pg"),
        (None, [entry("gloo:broadcast", 1)], "gloo:broadcast number 1 of group default_pg"),
        ([], [entry("gloo:broadcast", 1)], "gloo:broadcast number 1 of group default_pg"),
        ([entry("nccl:a", 1)], [entry("gloo:b", 2)], "gloo:b number 1 of group default_pg"),
        ([], [], None),
        (None, None, None),
    ],
)
def test_whichever_recorder_there_is(recorders, nccl, gloo, expected):
    recorders(nccl, gloo)
    assert last_collective(flight_record()) == expected
