"""The page in a real Chromium: what it shows of a real run that was resumed once, and what a person does with it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from selenium.webdriver.common.keys import Keys

from dist_plm.monitor.report import load_run
from dist_plm.monitor.report_page import build
from dist_plm.monitor.report_page.build import build_page
from tests.monitor.browser import Browser
from tests.monitor.make import record, todays_course
from tests.monitor.test_report import make_run

TINY = Path(__file__).parent / "tiny"
HOSTILE = "x<img src=x onerror=window.hit=1><!--<script>&amp;\"'"


def opened(browser: Browser, folder: Path, *runs: Path, **window: int) -> Browser:
    page = folder / "page.html"
    page.write_text(build_page([load_run(run) for run in runs]))
    browser.open(page.as_uri(), **window)
    return browser


def loss_at(step: int) -> float:
    lines = (TINY / "metrics.jsonl").read_text().splitlines()
    return next(line["loss"] for line in map(json.loads, lines) if line["step"] == step)


def steps_shown(browser: Browser, measure: str = "loss") -> list[float]:
    """The ends of a chart's x axis."""
    return browser.run(
        "const one = page.charts.find((chart) => chart.measure.names.at(-1) === arguments[0]);"
        "return [one.plot.scales.x.min, one.plot.scales.x.max]",
        measure,
    )


def test_a_real_run_without_a_request_or_a_complaint(browser, tmp_path):
    opened(browser, tmp_path, TINY)
    titles = browser.run("return [...document.querySelectorAll('.chart h2')].map((one) => one.textContent)")
    assert titles[:2] == ["Loss (nats per token)", "Held-out loss (nats per token)"]
    assert {"Learning rate", "Gradient norm (before clipping)", "Speed (tokens/s)", "Time of a step (s)"} <= set(titles)
    assert {"Model FLOPs utilisation (share of peak)", "Held-out perplexity"} <= set(titles)
    marks = browser.run("return page.runs[0].marks('step')")
    ((mark),) = marks
    assert (mark["x"], mark["kind"], mark["label"]) == (20, "restart", "restart")
    events = browser.text("#events")
    assert "start 0 2026" in events
    assert "restart 20 2026" in events
    assert "command line  (over conf/train/default.yaml: 1000)" in browser.text("#settings")
    assert browser.problems() == []
    assert browser.asked() == {(tmp_path / "page.html").as_uri()}


def test_the_pointer_reads_values_in_all_charts(browser, tmp_path):
    opened(browser, tmp_path, TINY)
    browser.over("loss", 0.5).perform()
    assert browser.readout("loss").splitlines()[0] == f"{loss_at(20):.5g} at 20"
    assert browser.readout("lr").splitlines()[0].endswith(" at 20")


def test_marks_say_what_was_there_under_the_pointer(browser, tmp_path):
    run = shutil.copytree(TINY, tmp_path / "run")
    healed = {"rollbacks": 1, "noticed": 33, "step": 30, "skipped_samples": 16}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[30] |= {f"heal/{name}": value for name, value in healed.items()}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    opened(browser, tmp_path, run)
    (start,) = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()][1:]
    restart = f"restart after step 20: {start['time']} on {start['node']}, {start['ranks']} rank"
    browser.over("loss", 0.5).perform()
    assert restart in browser.readout("loss")
    assert restart in browser.readout("lr"), "the pointer is read in all charts"
    browser.over("loss", 31 / 40).perform()
    told = (
        "rollback: step 33 was bad, the run went back to step 30, 16 samples are left out so far, rollback 1 of the run"
    )
    assert told in browser.readout("loss")
    assert restart not in browser.readout("loss")
    browser.over("loss", 0.2).perform()
    assert browser.driver.find_elements("css selector", ".readout .mark") == []
    assert f"rollback 31 {told.removeprefix('rollback: ')}" in browser.text("#events")
    assert browser.problems() == []


def test_tables_of_what_was_measured_and_set(browser, tmp_path):
    run = shutil.copytree(TINY, tmp_path / "run")
    (run / "step_parts.jsonl").write_text(
        json.dumps(
            {"step": 20, "seconds": {"data": [0.001, 0.002], "communication": [0.009, 0.0]}, "nodes": ["a", "b"]}
        )
        + "\n"
    )
    (run / "profiles").mkdir()
    operation = {"name": "aten::mm<b>", "calls": 12, "host_ms": 3.5, "device_ms": 0.0}
    (run / "profiles" / "operations_00001.json").write_text(
        json.dumps({"first": 10, "last": 12, "rank": 1, "operations": [operation]}) + "\n"
    )
    other = make_run(tmp_path / "other", 80, settings="optim: {lr: 0.5}\n")
    opened(browser, tmp_path, run, other)
    browser.run("document.querySelectorAll('#tables details').forEach((one) => { one.open = true; })")
    rows = browser.run(
        "const cells = (row) => [...row.cells].map((cell) => cell.textContent);"
        "return [...document.querySelectorAll('#tables table')].map((table) => [...table.rows].map(cells))"
    )
    assert rows == [
        [["rank", "node", "data", "communication"], ["rank 1", "b", "2.00", "0.00"], ["rank 0", "a", "1.00", "9.00"]],
        [["operation", "calls", "host, ms", "device, ms"], ["aten::mm<b>", "12", "3.5", "0.0"]],
    ]
    titles = [one.text for one in browser.driver.find_elements("css selector", "#tables summary")]
    assert titles[1] == f"{run}: Longest operations of steps 10 to 12 on rank 1"
    differing = browser.text("#differing").splitlines()
    ours = yaml.safe_load((run / "run.yaml").read_text())["optim"]["lr"]
    assert f"optim.lr {ours:g} 0.5" in differing
    search = browser.driver.find_element("css selector", "#settings input")
    search.send_keys("train.steps")
    shown = [
        row.text for row in browser.driver.find_elements("css selector", "#settings tbody tr") if row.is_displayed()
    ]
    assert len(shown) == 1
    assert "command line  (over conf/train/default.yaml: 1000)" in shown[0]
    assert browser.problems() == []


def test_a_drag_zooms_all_charts_and_a_double_click_shows_all(browser, tmp_path):
    opened(browser, tmp_path, TINY)
    assert steps_shown(browser) == [0, 40]
    browser.over("loss", 0.25).click_and_hold().perform()
    browser.over("loss", 0.75).release().perform()
    low, high = steps_shown(browser)
    assert (low, high) == (pytest.approx(10, abs=0.2), pytest.approx(30, abs=0.2))
    assert steps_shown(browser, "lr") == [low, high]
    browser.over("loss", 0.5).double_click().perform()
    assert steps_shown(browser) == [0, 40]


def test_the_keyboard_alone_reads_and_zooms(browser, tmp_path):
    opened(browser, tmp_path, TINY)
    chart = browser.chart("loss")
    chart.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.readout("loss") == f"{loss_at(3):.5g} at 3"
    chart.send_keys(Keys.ARROW_LEFT)
    assert browser.readout("loss").endswith(" at 2")
    chart.send_keys("+")
    assert steps_shown(browser) == [1, 21]
    chart.send_keys("0")
    assert steps_shown(browser) == [0, 40]
    reached = browser.run(
        "const stops = [...document.querySelectorAll('input, select, button, .chart, summary')];"
        "return stops.every((one) => one.tabIndex >= 0)"
    )
    assert reached


def test_axis_smoothing_and_log_scale(browser, tmp_path):
    opened(browser, tmp_path, TINY)
    browser.driver.find_element("css selector", "input[value=tokens_seen]").click()
    assert steps_shown(browser) == [0, 2560]
    assert browser.readout("loss").endswith(" at 2560")
    browser.driver.find_element("css selector", "input[value=seconds]").click()
    assert 0 < steps_shown(browser)[1] < 100
    browser.driver.find_element("id", "smoothing").send_keys(*[Keys.ARROW_RIGHT] * 30)
    assert "(smoothed " in browser.readout("loss")
    assert "smoothed" not in browser.readout("eval/loss"), "a few evaluations are as they are"
    browser.driver.find_element("id", "log").click()
    assert browser.run("return page.charts.map((chart) => chart.plot?.scales.y.distr ?? 3)") == [3] * 9
    assert browser.problems() == []


def test_light_and_dark(browser, tmp_path):
    opened(browser, tmp_path, TINY)
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(ground)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.wait_for("return document.documentElement.dataset.theme === 'dark'")
    assert browser.run(ground) != light
    browser.driver.find_element("css selector", "#theme option[value=light]").click()
    assert browser.run(ground) == light
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_runs_side_by_side(browser, tmp_path):
    other = make_run(tmp_path / "other", 80, settings="optim: {lr: 0.5}\n")
    opened(browser, tmp_path, TINY, other)
    assert "optim.lr" in browser.text("#differing")
    assert browser.readout("loss").count(" at ") == 2
    browser.driver.find_element("css selector", "#controls input[type=checkbox]:not(#log)").click()
    assert browser.readout("loss") == f"{other} 0.125 at 80"
    assert browser.problems() == []


def test_a_narrow_window_needs_no_scrolling_sideways(browser, tmp_path):
    opened(browser, tmp_path, TINY, make_run(tmp_path / ("long" * 30)), width=500, height=900)
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")


def test_what_runs_are_called_and_say_is_text(browser, tmp_path):
    run = tmp_path / HOSTILE.replace("/", "")
    shutil.copytree(TINY, run)
    said = f"</script>{HOSTILE}"
    (run / "run.yaml").write_text(json.dumps({"model": {"family": said}, said: 1}))
    (run / "predictions").mkdir()
    (run / "predictions" / "validation.jsonl").write_text(json.dumps({"text": said, said: {"a": said}}) + "\n")
    (run / "starts.jsonl").write_text(json.dumps({"time": said, "node": said, "ranks": said}) + "\n")
    (run / "origins.json").write_text(json.dumps({"model.family": said}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**record(41).as_dict(), said: 1.5, f"heal/{said}": 1.0}) + "\n")
    opened(browser, tmp_path, run, TINY)
    browser.run("document.getElementById('more').open = true")
    browser.run("document.querySelectorAll('.chart').forEach((one) => one.scrollIntoView())")
    assert browser.text("h1") == f"{run}, {TINY}"
    for place in ("#settings", "#samples", "#events", "#differing"):
        assert said in browser.text(place)
    assert said in browser.run("return [...document.querySelectorAll('.chart h2')].at(-1).textContent")
    assert browser.run("return [window.hit ?? null, document.images.length, document.scripts.length]") == [None, 0, 2]
    assert browser.problems() == []


def test_what_is_not_finite_is_marked(browser, tmp_path):
    run = make_run(tmp_path / "run", 5)
    with (run / "metrics.jsonl").open("a") as file:
        line = {**record(6).as_dict(), "loss": None, "nonfinite": {"loss": "nan"}}
        file.write(json.dumps(line) + "\n" + json.dumps(record(7).as_dict()) + "\n")
    opened(browser, tmp_path, run)
    assert "loss is nan 6" in browser.text("#events")
    loss = browser.run("const chart = page.charts[0]; return [chart.curves[0].odd, [...chart.plot.data[1]]]")
    assert loss[0] == [[6, "nan"]]
    assert loss[1][5] is None
    assert browser.problems() == []


def test_the_worst_microbatch_is_told_with_its_samples(browser, tmp_path):
    run = make_run(tmp_path / "run", 0)
    with (run / "metrics.jsonl").open("w") as file:
        for step in (1, 2):
            worst = {"worst/loss": 7.5 * step, "worst/first_sample": 70_000 + step, "worst/last_sample": 70_003 + step}
            file.write(json.dumps({**record(step).as_dict(), **worst, "norms/layer_1": 2.0}) + "\n")
    opened(browser, tmp_path, run)
    browser.run("document.querySelector('[data-measure=\"worst/loss\"]').scrollIntoView()")
    browser.wait_for("return document.querySelector('[data-measure=\"worst/loss\"] canvas')")
    assert browser.readout("worst/loss") == "15 at 2, samples 70,002 to 70,005"
    assert browser.text("#more") == "More measures (1)"
    browser.driver.find_element("css selector", "#more summary").click()
    browser.wait_for("return document.querySelector('#more canvas')")
    assert browser.readout("norms/layer_1") == "2 at 2"
    assert browser.problems() == []


def test_samples_of_the_worst_microbatch_are_text(browser, tmp_path):
    run = make_run(tmp_path / "run", 2)
    worst = {"worst/loss": 7.5, "worst/first_sample": 70, "worst/last_sample": 77}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**record(3).as_dict(), **worst}) + "\n")
    said = f"</script>{HOSTILE} [[<mask> -> of]]"
    page = tmp_path / "page.html"
    page.write_text(build_page([load_run(run)], lambda run_dir, first, stop: [said] * (stop - first)))
    browser.open(page.as_uri())
    shown = browser.text("#samples")
    assert "The worst microbatch of step 3, of loss 7.5: samples 70 to 77" in shown
    assert [row for row in shown.splitlines() if row[:3] in ("70 ", "73 ", "74 ")] == [f"70 {said}", f"73 {said}"]
    assert f"launch/samples.py run={run} 'samples=[70, 78]' shows them whole." in shown
    assert browser.run("return [window.hit ?? null, document.images.length, document.scripts.length]") == [None, 0, 2]
    opened(browser, tmp_path, run)
    assert browser.text("#samples").endswith(f"launch/samples.py run={run} 'samples=[70, 78]' shows them.")
    assert browser.problems() == []


def test_of_a_long_run_what_few_steps_have_keeps_its_points(browser, tmp_path, monkeypatch):
    records = todays_course(3_000, num_layers=2)
    run = make_run(tmp_path / "run", 0)
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    monkeypatch.setattr(build, "MOST_VALUES", 10_000)
    opened(browser, tmp_path, run)
    assert "of long curves about one point in " in browser.text("#status")
    browser.driver.find_element("css selector", "#more summary").click()
    browser.run("page.charts.forEach((chart) => { chart.seen = true; chart.rebuild(); })")
    steps = {
        name: browser.run(
            "const chart = page.charts.find((one) => one.measure.names.at(-1) === arguments[0]);"
            "return [chart.curves[0].xs, chart.plot.data[1].filter((y) => Number.isFinite(y)).length]",
            name,
        )
        for name in ("loss", "eval/loss", "step_parts/backward", "activation/layers.1", "update_ratio/layers.0")
    }
    loss, _ = steps.pop("loss")
    assert len(loss) < 1_000
    for name, (xs, drawn) in steps.items():
        assert xs == [record["step"] for record in records if name in record]
        assert drawn == len(xs) >= 12
    assert browser.readout("slow/ratio") == "1.3 at 1,501"
    browser.driver.find_element("css selector", "input[value=tokens_seen]").click()
    assert browser.readout("loss").endswith(" at 1.5729B"), "the last of all, where the places are large numbers"
    browser.driver.find_element("css selector", "input[value=step]").click()
    at = records[-1]
    assert browser.readout("worst/loss").endswith(
        f" at 3,000, samples {at['worst/first_sample']:,} to {at['worst/last_sample']:,}"
    )
    assert browser.problems() == []


def test_of_many_points_the_extremes_of_each_pixel_are_drawn(browser, tmp_path):
    run = make_run(tmp_path / "run", 0)
    spikes = {1234: 99.0, 8765: -5.0}
    with (run / "metrics.jsonl").open("w") as file:
        file.writelines(
            json.dumps(record(step, loss=spikes.get(step, 2 + step % 7)).as_dict()) + "\n" for step in range(1, 10_001)
        )
    opened(browser, tmp_path, run)
    xs, ys = browser.run("const { data } = page.charts[0].plot; return [[...data[0]], [...data[1]]]")
    assert len(xs) < 2_000
    drawn = dict(zip(xs, ys, strict=True))
    assert {step: drawn.get(step) for step in spikes} == spikes
    browser.run("page.zoom([1230, 1240])")
    xs = browser.run("return [...page.charts[0].plot.data[0]]")
    assert set(range(1230, 1241)) <= set(xs), "each point where there is room"
