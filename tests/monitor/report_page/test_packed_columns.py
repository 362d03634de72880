"""Columns come out as they went in, to five digits, whatever runs hold."""

import base64
import gzip
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dist_plm.monitor.report_page.packed_columns import columns_of, elapsed_seconds, thinned
from dist_plm.monitor.run_summary import step_seconds
from tests.monitor.make import record


def course(num_steps: int) -> list[dict[str, Any]]:
    """Records of a long run, as noisy as real ones."""
    draw = random.Random(0)
    return [
        record(
            step,
            loss=2.5 + 7 * math.exp(-step / 9000) + 0.08 * draw.gauss(0, 1),
            lr=3e-4 * (1 + math.cos(step / 1e5)),
            grad_norm=abs(draw.gauss(0.8, 0.3)),
            tokens_seen=524_288 * step,
            tokens_per_second=draw.gauss(2e6, 5e4),
            step_seconds=draw.gauss(0.25, 0.01),
            mfu=draw.gauss(0.45, 0.01),
            memory_gib=61.37,
        ).as_dict()
        for step in range(1, num_steps + 1)
    ]


def unpacked(packed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    data, found = gzip.decompress(base64.b64decode(packed["data"])), {}
    for place, name in enumerate(packed["names"]):
        kind = np.dtype("<f8" if place < packed["exact"] else "<f4")
        planes = np.frombuffer(data[: packed["rows"] * kind.itemsize], np.uint8).reshape(kind.itemsize, -1)
        values = np.ascontiguousarray(planes.T).view(kind)[:, 0] if packed["rows"] else np.empty(0)
        found[name], data = np.cumsum(values) if place < packed["exact"] else values, data[planes.size :]
    assert data == b""
    return found


def test_values_are_kept_to_five_digits():
    records = course(500)
    columns = unpacked(columns_of(records))
    for name in ("step", "tokens_seen"):
        assert columns[name].tolist() == [one[name] for one in records]
    for name in ("loss", "lr", "grad_norm", "tokens_per_second", "mfu", "memory_gib", "samples_seen"):
        assert columns[name] == pytest.approx([one[name] for one in records], rel=1e-5)
    assert columns["seconds"][-1] == pytest.approx(step_seconds(records))
    assert "loss_scale" not in columns, "no run of bf16 has one"


def test_what_a_record_lacks_and_what_is_not_finite_are_told_apart():
    records = [record(1, grad_norm=None), record(2, loss=math.nan), record(3, loss=math.inf, evaluation={"loss": 1.0})]
    packed = columns_of([one.as_dict() for one in records])
    assert packed["odd"] == [(1, "loss", "nan"), (2, "loss", "inf")]
    columns = unpacked(packed)
    assert np.isnan(columns["grad_norm"]).tolist() == [True, False, False]
    assert np.isnan(columns["eval/loss"]).tolist() == [True, True, False]


@pytest.mark.parametrize("value", [1e300, -1e300, 3.4028235e38, 1e-45, 0.0, -0.0])
def test_no_number_is_too_large_or_too_small(value):
    loss = unpacked(columns_of([record(1, loss=value).as_dict()]))["loss"][0]
    most = float(np.finfo(np.float32).max)
    assert float(loss) == pytest.approx(min(max(value, -most), most), rel=1e-5, abs=1e-44)


def test_whole_numbers_are_exact():
    records = [{**record(step).as_dict(), "worst/first_sample": 2**40 + 3 * step % 7} for step in range(1, 50)]
    columns = unpacked(columns_of(records))
    assert columns["worst/first_sample"].tolist() == [one["worst/first_sample"] for one in records]


def test_text_in_a_record_is_no_column():
    assert "note" not in columns_of([{**record(1).as_dict(), "note": "x", "flag": True}])["names"]


def test_no_records_are_no_rows():
    assert columns_of([])["rows"] == 0


def test_thinning_keeps_peaks_ends_and_what_happened():
    records = course(1000)
    for one in records:
        one["loss/part"] = 1.0  # which each record has
    records[321]["loss"], records[654]["eval/loss"], records[77]["loss"] = 50.0, 3.0, math.nan
    rows = thinned(records, 4)
    assert {0, 321, 654, 77, 999} <= set(rows)
    assert len(rows) <= 1000 / 4 + 4 + 2
    names = len(columns_of(records)["names"])
    packed = columns_of(records, most=300 * names)
    assert (packed["every"], packed["rows"]) == (4, len(rows))
    kept = np.asarray(elapsed_seconds(records))[rows]
    assert unpacked(packed)["seconds"] == pytest.approx(kept), "time goes on where records are left out"
