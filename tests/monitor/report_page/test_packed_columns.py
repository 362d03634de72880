"""Columns come out as they went in, to five digits, whatever runs hold."""

import base64
import gzip
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dist_plm.monitor.report_page.packed_columns import columns_of, elapsed_seconds, most_points
from dist_plm.monitor.run_summary import step_seconds
from tests.monitor.make import course, record, todays_course


def points_of(packed: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows and values of each column."""
    data, found = gzip.decompress(base64.b64decode(packed["data"])), {}

    def taken(points: int, dtype: str) -> np.ndarray:
        nonlocal data
        planes = np.frombuffer(data[: points * np.dtype(dtype).itemsize], np.uint8)
        data = data[planes.size :]
        return np.ascontiguousarray(planes.reshape(-1, points).T).view(dtype)[:, 0] if points else np.empty(0)

    for group in packed["groups"]:
        points = group["points"]
        everywhere = points == packed["rows"]
        rows = np.arange(points) if everywhere else np.cumsum(taken(points, "<f8")).astype(int)
        for place, name in enumerate(group["names"]):
            exact = place < group["exact"]
            found[name] = rows, np.cumsum(taken(points, "<f8")) if exact else taken(points, "<f4")
    assert data == b""
    return found


def unpacked(packed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Each column with a value for each row, nan where it has none."""
    found = {}
    for name, (rows, values) in points_of(packed).items():
        found[name] = np.full(packed["rows"], np.nan)
        found[name][rows] = values
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
    assert "note" not in unpacked(columns_of([{**record(1).as_dict(), "note": "x", "flag": True}]))


def test_no_records_are_no_rows():
    assert columns_of([])["rows"] == 0


def test_thinning_keeps_peaks_ends_and_what_happened():
    records = course(1000)
    for one in records:
        one["loss/part"] = 1.0  # which each record has
    records[321]["loss"], records[654]["eval/loss"], records[77]["loss"] = 50.0, 3.0, math.nan
    names = len(unpacked(columns_of(records)))
    packed = columns_of(records, most=250 * names)
    rows, losses = points_of(packed)["loss"]
    assert (packed["every"], len(rows)) == (4, len(losses))
    assert 220 < len(rows) <= 252
    steps = unpacked(packed)["step"].astype(int)
    assert {1, 322, 78, 1000} <= set(steps[rows])
    assert packed["odd"] == [(steps.tolist().index(78), "loss", "nan")]
    assert steps[points_of(packed)["eval/loss"][0]].tolist() == [655]
    kept = np.asarray(elapsed_seconds(records))[steps - 1]
    assert unpacked(packed)["seconds"] == pytest.approx(kept), "time goes on where records are left out"


@pytest.mark.parametrize("most", [20_000, 8_000, 2_000])
def test_what_few_records_have_keeps_its_points(most):
    records = todays_course(2_000, num_layers=6)
    packed = columns_of(records, most=most)
    points, steps = points_of(packed), unpacked(packed)["step"].astype(int)
    assert len(points["loss"][0]) < 1500
    for name in ("step_parts/forward", "activation/layers.5", "update_ratio/layers.5", "eval/loss", "slow/ratio"):
        told = [(record["step"], record[name]) for record in records if name in record]
        rows, values = points[name]
        assert steps[rows].tolist() == [step for step, _ in told]
        assert values == pytest.approx([value for _, value in told], rel=1e-5)
    counted = sum(len(rows) for name, (rows, _) in points.items() if name not in ("step", "tokens_seen", "seconds"))
    assert counted < 1.1 * most


def test_what_few_records_have_is_thinned_by_itself_where_it_is_long():
    records = [{**record(step).as_dict(), "odd/one": step % 50, "odd/two": 7.0} for step in range(1, 1001)]
    for one in records[::2]:
        del one["odd/one"], one["odd/two"]
    records[601]["odd/two"] = 700.0
    packed = columns_of(records, most=16 * 100)
    rows, values = points_of(packed)["odd/two"]
    assert 60 < len(rows) <= 102
    assert max(values) == 700.0
    assert unpacked(packed)["step"][rows[values.argmax()]] == 602


def test_short_columns_leave_their_share_to_long_ones():
    assert most_points([10, 10, 1000, 1000], 1020) == 500
    assert most_points([10, 10, 100, 1000], 1020) == 900
    assert most_points([10, 20], 40) == 20
    assert most_points([], 40) == 1
    assert most_points([5, 5], 1) == 1
