import json
from pathlib import Path

import pytest

from dist_plm.monitor.live.follow import FollowedRun
from dist_plm.monitor.metrics_file import begun_after
from dist_plm.monitor.report import Run
from dist_plm.monitor.report_page.packed_columns import columns_of, elapsed_seconds
from dist_plm.monitor.report_page.run_facts import facts_of
from dist_plm.monitor.run_summary import change, render_summary, step_seconds, summarise
from tests.monitor.make import record

RECORDS = [
    record(1, evaluation={"initial/loss": 11.0, "initial/perplexity": 59874.1}, tokens_per_second=100.0, mfu=0.1),
    record(3, step_seconds=0.5, skipped=2, tokens_per_second=2000.0, mfu=0.5),
    record(4, evaluation={"loss": 4.0, "perplexity": 54.6}, tokens_per_second=1000.0, mfu=0.3),
    record(5, tokens_per_second=1000.0, mfu=0.3),
]


def summary(records=RECORDS, **options):
    return summarise(Path("runs/small"), [entry.as_dict() for entry in records], **options)


def test_the_numbers_of_a_run():
    drawn = summary()
    assert (drawn.last_step, drawn.tokens_seen, drawn.skipped) == (5, 2560, 2)
    assert (drawn.loss_start, drawn.loss_end) == (10.0, 2.0)
    assert (drawn.perplexity_before, drawn.perplexity_after) == (59874.1, 54.6)
    assert (drawn.tokens_per_second, drawn.mfu) == (1000.0, 0.3)
    assert drawn.wall_seconds == pytest.approx(0.25 + 2 * 0.5 + 0.25 + 0.25)
    assert summary(wall_seconds=60.0).wall_seconds == 60.0


def test_the_last_evaluation_counts_and_the_initial_one_is_not_it():
    assert summary(RECORDS[:1]).perplexity_after is None
    later = [*RECORDS, record(6, evaluation={"perplexity": 40.0})]
    assert summary(later).perplexity_after == 40.0


def test_step_seconds_weigh_each_record_by_its_steps():
    assert step_seconds([record(10, step_seconds=1.0).as_dict(), record(30, step_seconds=2.0).as_dict()]) == 50.0


def test_the_steps_of_another_runs_checkpoint_are_not_the_runs(tmp_path):
    """As train.resume=OTHER/checkpoints/step_00001000 begins one."""
    records = [record(step, step_seconds=2.0, skipped=int(step == 1004)).as_dict() for step in range(1001, 1005)]
    (tmp_path / "resumes.jsonl").write_text('{"id": "a", "step": 1000}\n{"id": "b", "step": 1002}\n')
    summary = summarise(tmp_path, records)
    assert (summary.wall_seconds, summary.skipped_share) == (8.0, 0.25)
    run = Run(tmp_path, records, {})
    seconds = elapsed_seconds(records, begun_after(tmp_path))
    assert seconds == [2.0, 4.0, 6.0, 8.0]
    assert facts_of(run, most_values=99)["columns"] == columns_of(records, most=99, seconds=seconds)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    followed = FollowedRun(tmp_path)
    followed.update()
    assert followed.seconds == seconds


def test_rendered():
    text = render_summary(summary(next_commands=["python launch/report.py runs/small"]))
    assert text.splitlines() == [
        "run                  runs/small",
        "steps                5 (2.56k tokens) in 2s",
        "loss                 10 -> 2",
        "held-out perplexity  59,874 -> 54.6",
        "tokens/s             1000 (median)",
        "MFU                  30.0%",
        "skipped updates      2 (40.00%)",
        "",
        "next:",
        "  python launch/report.py runs/small",
    ]


def test_what_a_run_does_not_have_is_not_made_up():
    text = render_summary(summary([record(1, mfu=None)]))
    assert "unknown" in text
    assert "perplexity" not in text
    assert "skipped" not in text
    assert change(None, 3.0) == "- -> 3"
