"""Lets a side of bench/train_cpu.py live in processes of its own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from train_cpu_sides import OURS, PEERS, Case, Cost, timed

from dist_plm.distributed.world import shutdown


class Apart:
    """A side in processes of its own, with the memory and the settings that it has where nobody else is; it waits for its turn.

    Args:
        name: of `OURS` or `PEERS`.
        ranks: processes, of one thread each where they are several.
        threads: of a single process.
        calls: how often it is called.
        environment: of its processes, besides.
    """

    def __init__(
        self,
        case: Case,
        name: str,
        *,
        ranks: int = 1,
        threads: int = 1,
        calls: int = 1,
        environment: Mapping[str, str] = MappingProxyType({}),
        **parallel: int,
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env: dict[str, Any] = {"OMP_NUM_THREADS": threads if ranks == 1 else 1}
        if name in OURS:  # Trainer would take itself for one of several ranks
            env |= {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        settings = json.dumps([asdict(case), name, calls, parallel])
        self._ranks = [
            subprocess.Popen(
                [sys.executable, Path(__file__).with_name("train_cpu.py"), "--rank", settings],
                env=os.environ | {key: str(value) for key, value in (env | own).items()} | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for own in ({"RANK": rank, "LOCAL_RANK": rank} if name in OURS else {} for rank in range(ranks))
        ]

    def ready(self) -> None:
        """Waits until its processes have set themselves up."""
        for rank in self._ranks:
            self._answer(rank)

    def __call__(self) -> Cost:
        self.begin()
        return self.end()

    def begin(self) -> None:
        for rank in self._ranks:
            rank.stdin.write("step\n")

    def end(self) -> Cost:
        """Waits for what has begun."""
        costs = [self._answer(rank) for rank in self._ranks]
        return Cost(max(cost.wall for cost in costs), sum(cost.processor for cost in costs))

    def _answer(self, rank: Any) -> Cost:
        line = rank.stdout.readline()
        while line and not line.startswith("cost "):
            line = rank.stdout.readline()
        if not line:
            raise RuntimeError("a side ended")
        return Cost(*json.loads(line[5:]))

    def close(self) -> None:
        for rank in self._ranks:
            rank.stdin.close()
        for rank in self._ranks:  # they leave together
            rank.wait()


def be_a_rank(settings: str) -> None:
    """What a process of a side does: a step for each line that it reads."""
    values, name, calls, parallel = json.loads(settings)
    case = Case(**values)
    step = OURS[name](case, parallel) if name in OURS else PEERS[name](case, calls * case.steps)
    side = timed(step, case.steps)
    print("cost [0, 0]", flush=True)
    for _ in sys.stdin:
        print("cost", json.dumps(side()), flush=True)
    if name in OURS:
        shutdown()
