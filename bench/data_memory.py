"""The memory that each process of prepare_data takes, on text as long as is asked for.

    python bench/data_memory.py TEXTS                     # 2 GB out of the text files that the glob TEXTS names, 2 workers
    python bench/data_memory.py TEXTS --gigabytes 0.2     # less
    python bench/data_memory.py TEXTS --row-mb 30         # documents of 30 MB each instead of a few kilobytes

The texts are repeated, with every third word drawn anew from all of them, so that next to nothing is dropped as said
before. They are cleaned (clean=web), freed of near duplicates (dedup=minhash), and a WordPiece vocabulary is trained on
them. Of each process the largest resident memory is printed, which includes the pages of files that it has mapped, and
what it was at work on by the time it ended.
"""

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT_WORDS = 500
POLL_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", help="a glob of UTF-8 text files")
    parser.add_argument("overrides", nargs="*", help="further settings of prepare_data, which go before those above")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--row-mb", type=float, default=None, help="megabytes of a document")
    parser.add_argument("--directory", type=Path, default=None, help="for files; five times the text")
    options = parser.parse_args()
    # Absolute: parts are given to processes that work elsewhere.
    directory = None if options.directory is None else options.directory.resolve()
    with tempfile.TemporaryDirectory(dir=directory, prefix="bench_data_memory_") as folder:
        text = Path(folder) / "text.jsonl"
        count = write_text(text, options.texts, options.gigabytes * 1e9, options.row_mb)
        print(f"{text.stat().st_size / 1e9:.2f} GB of text in {count:,} documents", flush=True)
        settings = {"clean": "web", "dedup": "minhash", "tokenizer": "wordpiece", "data.workers": "2"}
        settings |= dict(override.split("=", 1) for override in options.overrides)
        command = [
            *(sys.executable, str(ROOT / "launch" / "prepare_data.py")),
            *(f"data.sources=[{{path: {text}}}]", f"data.out={folder}/store"),
            *(f"{name}={value}" for name, value in settings.items()),
        ]
        began = time.perf_counter()
        with open(f"{folder}/log", "w+") as log:
            peaks = watch(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT), Path(folder))
            print((log.seek(0), log.read())[1])
        print(f"{time.perf_counter() - began:.0f} s; the largest resident memory of each process:")
        for name, mebibytes, last in peaks:
            print(f"  {name:<10}{mebibytes:>7.0f} MiB   until {last}")
        largest = max(mebibytes for _, mebibytes, _ in peaks)
        verdict = "reached" if largest < 1e9 / 2**20 else "NOT reached"
        print(f"largest: {largest:.0f} MiB  goal < 1 GB: {verdict}")


def write_text(path: Path, texts: str, num_bytes: float, row_mb: float | None) -> int:
    """Rows of about a text's words in their order, a third of them drawn anew; how many there are."""
    words = [Path(name).read_text(encoding="utf-8").split(" ") for name in sorted(glob.glob(texts, recursive=True))]
    known = np.array([word for text in words for word in text], dtype=object)
    draw, rows, written = np.random.default_rng(1), 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            least = DOCUMENT_WORDS if row_mb is None else int(row_mb * 1e6 * len(known) / sum(map(len, known)))
            for start in range(0, max(len(known) - least, 1), least):
                file.write(line := row(known, start, least, draw))
                written, rows = written + len(line.encode()), rows + 1
                if written >= num_bytes:
                    break
    return rows


def row(words: np.ndarray, start: int, count: int, draw: np.random.Generator) -> str:
    chosen = np.arange(start, start + count) % len(words)
    anew = draw.random(count) < 1 / 3
    chosen[anew] = draw.integers(0, len(words), int(anew.sum()))
    return json.dumps({"text": " ".join(words[chosen].tolist())}, ensure_ascii=False) + "\n"


def watch(process: subprocess.Popen, folder: Path) -> list[tuple[str, float, str]]:
    """Name, largest memory in MiB, and last known stage of each process of `process`, which this waits for."""
    peaks: dict[int, tuple[float, str]] = {}
    while process.poll() is None:
        stage = stage_of(folder)
        for pid, mebibytes in resident(process.pid):
            peaks[pid] = (mebibytes, stage)
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"prepare_data failed:\n{(folder / 'log').read_text()}")
    names = {pid: "main" if pid == process.pid else f"worker {i}" for i, pid in enumerate(peaks)}
    return [(names[pid], *found) for pid, found in peaks.items()]


def resident(pid: int) -> Iterator[tuple[int, float]]:
    """The process and those that it started, with the most memory that each has had so far."""
    try:
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            status = Path(f"/proc/{member}/status").read_text()
        except OSError:
            continue
        if "VmHWM:" in status:
            yield member, int(status.split("VmHWM:")[1].split()[0]) / 1024


def stage_of(folder: Path) -> str:
    """The directory of the preparation's own that was made last."""
    scratch = folder / "store.partial" / "work"
    found = sorted((entry.stat().st_mtime, entry.name) for entry in os.scandir(scratch)) if scratch.exists() else []
    return found[-1][1] if found else "the beginning or the end"


if __name__ == "__main__":
    main()
