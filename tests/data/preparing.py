"""Preparations that tests compare: a small corpus, what to make of it, and runs of it."""

import multiprocessing
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from dist_plm.data.prepare.prepare import prepare
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.spec.prepare.clean import CleanConfig, DedupConfig
from dist_plm.spec.prepare.schema import PrepareConfig, PrepareDataConfig, SourceConfig, TokenizerConfig

UNIT_BYTES = 3500  # small, so that the corpus makes several units
CORPUS = Path(__file__).parent / "texts"
SOURCES = (
    SourceConfig(path=str(CORPUS / "sonnets_*.txt"), document="block"),
    SourceConfig(path=str(CORPUS / "*.jsonl")),
    SourceConfig(path=str(CORPUS / "tang.txt"), max_chars=50),
)
BPE = TokenizerConfig(name="bpe", vocab_size=400)
# Every stage that there is.
CLEAN = CleanConfig(rules=("repair", "control_characters", "nfc", "white_space", "length"), min_chars=20)
DEDUP = DedupConfig(paragraphs=True, min_paragraph_chars=20, near=True, threshold=0.5)


def slow(value):
    """A parameter for the whole set of tests alone."""
    return pytest.param(value, marks=pytest.mark.slow)


def configuration(out, tokenizer=BPE, every_stage=False, **data):
    return PrepareConfig(
        data=PrepareDataConfig(**{"sources": SOURCES, "out": str(out), "split": (0.6, 0.2, 0.2), **data}),
        tokenizer=tokenizer,
        clean=CLEAN if every_stage else CleanConfig(),
        dedup=DEDUP if every_stage else DedupConfig(),
    )


def run(out, **changes):
    lines = []
    store = prepare(configuration(out, **changes), lines.append)
    return store, "\n".join(lines)


def run_on_ranks(out, world_size, **changes):
    """Each rank in a process of its own, as ranks are; returns what each returned."""
    launches = [LaunchEnv(rank=rank, world_size=world_size) for rank in range(world_size)]
    with ProcessPoolExecutor(world_size, multiprocessing.get_context("fork")) as pool:
        return list(pool.map(partial(prepare, configuration(out, **changes), print), launches))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def in_a_process_of_its_own(out, preparation="", **changes):
    """Runs prepare in a new interpreter, after some lines of preparation."""
    program = f"""
        import os, signal
        from dist_plm.spec.prepare.clean import *
        from dist_plm.spec.prepare.schema import *
        from dist_plm.data.prepare import worker_group
        from dist_plm.data.dedup import deduplicate
        from dist_plm.core import files
        from dist_plm.data.prepare import read_and_clean
        from dist_plm.data.prepare import prepare
        from dist_plm.data.sources import sources
        from dist_plm.data.prepare import stages
        from dist_plm.data.prepare import staging
        sources._MIB = {UNIT_BYTES}

        def kill_at(module, name, number):
            function, calls = getattr(module, name), []
            def wrapped(*arguments, **keywords):
                calls.append(0)
                if len(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **keywords)
            setattr(module, name, wrapped)

        {preparation}
        prepare.prepare({configuration(out, **changes)!r}, print)
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
