"""Of which samples a page tells, and what it says where they cannot be read."""

from pathlib import Path

import pytest

from dist_plm.core.errors import DataError
from dist_plm.monitor.report_page.worst_samples import worst_of, worst_samples
from tests.monitor.make import record

RUN = Path("runs/my run")


def worst(first: int, last: int, loss: float = 7.5) -> dict:
    return {"worst/loss": loss, "worst/first_sample": first, "worst/last_sample": last}


def healed(number: int, **more) -> dict:
    numbers = {"rollbacks": number, "noticed": 10 * number, "step": 8, "skipped_samples": 16, **more}
    return {f"heal/{name}": value for name, value in numbers.items()}


def course(*changes: dict) -> list[dict]:
    return [{**record(step).as_dict(), **change} for step, change in enumerate(changes, start=1)]


def read(run_dir: Path, first: int, stop: int) -> list[str]:
    return [f"{run_dir} {number}" for number in range(first, stop)]


def test_of_the_last_step_and_of_rollbacks_newest_first():
    first, second = ({"worst_loss": n / 2, "worst_first_sample": n, "worst_last_sample": n + 1} for n in (64, 1200))
    records = course(worst(1, 2), healed(1, **first), healed(2), healed(3, **second), worst(7, 7))
    assert worst_of(records) == [
        ("The worst microbatch of step 5, of loss 7.5: samples 7 to 7", 7, 7),
        (
            "The worst microbatch of step 30, from which the run went back, of loss 600: samples 1,200 to 1,201",
            1200,
            1201,
        ),
        ("The worst microbatch of step 10, from which the run went back, of loss 32: samples 64 to 65", 64, 65),
    ]
    many = course(*(healed(n, **first) for n in range(1, 30)))
    assert len(worst_of(many)) == 5


def test_a_few_samples_and_the_command_that_shows_all():
    (shown,) = worst_samples(RUN, course(worst(1000, 1031)), read)
    assert shown["rows"] == [{"sample": f"{n:,}", "text": f"runs/my run {n}"} for n in (1000, 1001, 1002, 1003)]
    assert shown["note"] == "python launch/samples.py 'run=runs/my run' 'samples=[1000, 1032]' shows them whole."


@pytest.mark.parametrize(
    "error", [DataError("s3://me:hunter2hunter2@host/x is missing"), KeyError("tokens"), RuntimeError("x")]
)
def test_where_they_cannot_be_read_the_command_is_there(error):
    def fails(run_dir: Path, first: int, stop: int) -> list[str]:
        raise error

    (shown,) = worst_samples(RUN, course(worst(1, 2)), fails)
    assert shown["rows"] == []
    assert shown["note"].startswith("They cannot be read here (")
    assert "python launch/samples.py 'run=runs/my run' 'samples=[1, 3]'" in shown["note"]
    assert "hunter" not in shown["note"]
    (shown,) = worst_samples(RUN, course(worst(1, 2)), None)
    assert shown["note"] == "python launch/samples.py 'run=runs/my run' 'samples=[1, 3]' shows them."


@pytest.mark.parametrize(
    ("first", "last"), [(5, 4), (-1, 2), (0.5, 2), (None, 2), ("x", 2), (2**70, 2**70), (float("nan"), 1)]
)
def test_what_no_run_writes_is_left_out(first, last):
    assert worst_samples(RUN, course(worst(first, last)), read) == []
    assert worst_of([]) == []
