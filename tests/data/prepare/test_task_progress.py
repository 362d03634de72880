import io
import time

from tqdm import tqdm

from dist_plm.data.prepare import task_progress
from dist_plm.data.prepare.task_progress import following


def bar_of(total, **options):
    return tqdm(total=total, file=io.StringIO(), **options)


def test_the_bar_moves_within_a_task_and_ends_with_what_was_done(monkeypatch):
    monkeypatch.setattr(task_progress, "_LOOK_SECONDS", 0.001)
    read = iter([1000, *range(1010, 1200, 10)])
    with bar_of(100, disable=False) as bar:
        with following(bar, lambda: next(read, 1500)) as finished:
            until = time.monotonic() + 300
            while bar.n < 30 and time.monotonic() < until:
                time.sleep(0.001)
            assert 30 <= bar.n <= 100
            finished(100)
        assert bar.n == 100


def test_what_is_done_counts_where_nothing_is_read():
    with bar_of(100, disable=False) as bar, following(bar, lambda: 7) as finished:
        finished(20)
        finished(30)
        assert bar.n == 50


def test_nothing_is_looked_at_without_a_terminal():
    with bar_of(100, disable=True) as bar, following(bar, lambda: 1 // 0) as finished:
        finished(20)
