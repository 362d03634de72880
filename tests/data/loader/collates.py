"""Collate functions that worker processes import; without torch, so that they start fast."""

import os
import signal

import numpy as np

from dist_plm.core.errors import DataError


def plain(windows):
    return {"tokens": windows.tokens[:, :-1], "labels": windows.tokens[:, 1:], "samples": windows.samples}


class FailAt:
    """Fails when it meets `sample`, in the way that `how` says."""

    def __init__(self, sample, how):
        self.sample, self.how = sample, how

    def __call__(self, windows):
        if self.sample in windows.samples:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "exit":
                os._exit(3)
            if self.how == "refuse":
                raise DataError("this corpus is no good")
            if self.how == "unpicklable":
                raise type("Local", (Exception,), {})("cannot travel")
            raise ZeroDivisionError("on purpose")
        return plain(windows)


class Counted:
    """Adds a byte to a file for each sample."""

    def __init__(self, path):
        self.path = path

    def __call__(self, windows):
        with open(self.path, "ab") as file:
            file.write(bytes(len(windows.samples)))
        return plain(windows)


def read_only(windows):
    tokens = np.broadcast_to(windows.tokens[:, :1], windows.tokens.shape)
    return {"tokens": tokens, "mask": windows.tokens > 5, "weights": np.float32(windows.tokens)}


def signals_its_process_group(windows):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    return plain(windows)


def modules(windows):
    import sys

    return {"torch": np.full(len(windows.samples), "torch" in sys.modules), "samples": windows.samples}
