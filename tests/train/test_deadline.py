import time

import pytest

from dist_plm.train.deadline import END_TIME, RESERVE_SECONDS, STALE_SECONDS, Deadline


def test_without_a_known_end_everything_is_allowed() -> None:
    for env in ({}, {END_TIME: ""}, {END_TIME: "0"}, {END_TIME: "Unknown"}):
        deadline = Deadline.from_environment(env)
        deadline.note("evaluation", 1e9)
        assert deadline.allows("evaluation")


def test_what_would_not_end_in_time_with_a_save_after_it_is_not_begun() -> None:
    deadline = Deadline.from_environment({END_TIME: str(int(time.time()) + 1000)})
    deadline.note("step", 10)
    deadline.note("evaluation", 500)
    assert deadline.allows("step")
    assert deadline.allows("evaluation")
    deadline.note("save", 200)
    assert deadline.allows("step")
    assert not deadline.allows("evaluation")


@pytest.mark.parametrize(
    ("left", "allowed"), [(RESERVE_SECONDS + 3600, True), (RESERVE_SECONDS - 1, False), (-5, False)]
)
def test_the_end_itself_is_left_alone(left: float, allowed: bool) -> None:
    assert Deadline(time.time() + left).allows("step") == allowed


@pytest.mark.parametrize(("ago", "known"), [(-100, True), (1, True), (STALE_SECONDS + 10, False), (1e6, False)])
def test_an_end_left_over_in_a_shell_is_none(ago: float, known: bool, caplog: pytest.LogCaptureFixture) -> None:
    deadline = Deadline.from_environment({END_TIME: str(int(time.time() - ago))})
    assert (deadline.end is not None) == known
    assert ("of another job" in caplog.text) != known
