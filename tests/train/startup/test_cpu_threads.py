"""Threads of a rank: the user's number, else a fair share of the cores."""

import os

import pytest

from dist_plm.train.startup.cpu_threads import is_set_by_user, share_of


@pytest.mark.parametrize(
    ("own", "of_all", "threads"),
    [
        (range(8), [range(8)], 8),
        (range(8), [range(8)] * 2, 4),
        (range(8), [range(8)] * 3, 2),
        (range(2), [range(2)] * 4, 1),
        (range(4), [range(4), range(4, 8)], 4),  # bound to cores of their own
        (range(2), [range(2), range(8)], 1),
    ],
)
def test_cores_are_shared_by_the_ranks_that_may_use_them(own, of_all, threads):
    assert share_of(own, of_all) == threads


@pytest.mark.parametrize(
    ("environ", "parent", "by_user"),
    [
        ({}, b"", False),
        ({"OMP_NUM_THREADS": "1"}, b"", True),
        ({"OMP_NUM_THREADS": "4", "TORCHELASTIC_RUN_ID": "none"}, b"", True),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, b"PATH=/bin\0HOME=/\0", False),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, b"PATH=/bin\0OMP_NUM_THREADS=1\0", True),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, None, True),
    ],
)
def test_what_torchrun_sets_is_not_the_users_choice(tmp_path, environ, parent, by_user):
    if parent is not None:
        (tmp_path / str(os.getppid())).mkdir()
        (tmp_path / str(os.getppid()) / "environ").write_bytes(parent)
    assert is_set_by_user(environ, tmp_path) is by_user
