"""What takes microbatches ahead ends with the run, however that ends."""

import itertools
import threading
import time

import pytest
import torch

from dist_plm.train.prefetcher import Prefetcher


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetcher"]


def drawn(begun: threading.Event):
    """Microbatches each of which takes a while to prepare."""
    while True:
        begun.set()
        time.sleep(0.3)
        yield {"tokens": torch.zeros(1)}


@pytest.mark.parametrize("taken", [0, 1])
def test_nothing_is_being_prepared_once_it_is_closed(taken):
    begun = threading.Event()
    prefetcher = Prefetcher(drawn(begun), itertools.repeat(1))
    for _ in range(taken):
        prefetcher.take()
    begun.wait()
    assert threads()
    prefetcher.close()
    assert not threads()


def test_data_that_never_come_keep_no_run_from_ending(monkeypatch):
    monkeypatch.setattr("dist_plm.train.prefetcher._CLOSE_SECONDS", 0.1)
    never = threading.Event()

    def waiting():
        never.wait()
        yield from ()

    prefetcher = Prefetcher(waiting(), itertools.repeat(1))
    prefetcher.close()
    assert threads()
    never.set()
