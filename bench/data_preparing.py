"""Parts (a) and (e) of bench/data.py: preparing."""

import json
import random
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from data_common import ROOT, child, child_environment, line


def write_text(path: Path, megabytes: float, *, seed: int = 0) -> int:
    """Lines of words whose frequencies fall as in text (Zipf), a document a line. Returns bytes written."""
    draw = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(draw.choices(letters, range(26, 0, -1), k=draw.randint(1, 10))) for _ in range(30_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            text = " ".join(draw.choices(words, weights, k=draw.randint(30, 600))) + ".\n"
            file.write(text)
            written += len(text)
    return written


def write_sources(path: Path, megabytes: float) -> int:
    """Python files of what is installed, a document each, in an order of their own. Returns bytes of text written."""
    files = sorted(Path(sysconfig.get_path("purelib")).rglob("*.py"))
    random.Random(0).shuffle(files)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for source in files:
            text = source.read_text(encoding="utf-8", errors="ignore")
            if len(text) > 200:
                file.write(json.dumps({"text": text}) + "\n")
                written += len(text.encode())
            if written >= megabytes * 1e6:
                break
    return written


def prepare(text: Path, out: Path, *, tokenizer: str) -> float:
    """Runs prepare_data with one process; wall seconds."""
    command = [
        *(sys.executable, str(ROOT / "launch" / "prepare_data.py")),
        f"data.sources=[{{path: {text}{'' if text.suffix == '.jsonl' else ', document: line'}}}]",
        *(f"data.out={out}", *tokenizer.split()),
    ]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=child_environment(), check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"prepare_data failed:\n{done.stdout}{done.stderr}")
    return seconds


def trained_tokenizer(folder: Path) -> str:
    """Overrides that name a tokenizer made once, so that only reading and tokenizing are timed."""
    write_text(folder / "sample.txt", 2, seed=1)
    prepare(folder / "sample.txt", folder / "sample", tokenizer="tokenizer=bpe tokenizer.vocab_size=8192")
    return f"tokenizer=file tokenizer.path={folder / 'sample' / 'tokenizer.json'}"


def bare_tokenization(folder: Path) -> float:
    """Seconds of the tokenizers library's batch call over folder/text.jsonl. Runs in a process of its own."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "sample" / "tokenizer.json"))
    with (folder / "text.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(text)["text"] for text in lines]
    began = time.perf_counter()
    for start in range(0, len(texts), 1000):
        tokenizer.encode_batch(texts[start : start + 1000])
    return time.perf_counter() - began


def tokenization(folder: Path, *, quick: bool) -> None:
    print(
        "\n(a) Python's sources from JSON to store, cleaning off, against the bare batch call of tokenizers; one core each"
    )
    size = write_sources(folder / "text.jsonl", 8 if quick else 100)
    write_sources(folder / "sample.jsonl", 2)
    write_sources(folder / "tiny.jsonl", 0.2)
    prepare(folder / "sample.jsonl", folder / "sample", tokenizer="tokenizer=bpe tokenizer.vocab_size=8192")
    tokenizer = f"tokenizer=file tokenizer.path={folder / 'sample' / 'tokenizer.json'}"
    ours, bare, startup = [], [], []
    for turn in range(2):
        bare.append(child("bare_tokenization", folder))
        ours.append(prepare(folder / "text.jsonl", folder / f"out{turn}", tokenizer=tokenizer))
        startup.append(prepare(folder / "tiny.jsonl", folder / f"tiny{turn}", tokenizer=tokenizer))
    theirs, whole, steady = (size / 1e6 / seconds for seconds in (min(bare), min(ours), min(ours) - min(startup)))
    line(f"tokenizers, batch call alone, {size / 1e6:.0f} MB", f"{theirs:.2f} MB/s")
    name = "prepare_data, command to finished store"
    line(name, f"{whole:.2f} MB/s ({whole / theirs:.2f})", ">= 4", whole >= 4 * theirs)
    name = f"  without the {min(startup):.1f} s that Python takes to start"
    line(name, f"{steady:.2f} MB/s ({steady / theirs:.2f})", ">= 4", steady >= 4 * theirs)


def scaling(folder: Path, *, quick: bool) -> None:
    print("\n(e) time against corpus size, the best of three each")
    tokenizer = trained_tokenizer(folder)
    unit = 4 if quick else 20
    seconds: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for times in seconds:
        write_text(folder / f"{times}.txt", unit * times)
    for turn in range(3):
        for times, rounds in seconds.items():
            rounds.append(prepare(folder / f"{times}.txt", folder / f"{times}_{turn}", tokenizer=tokenizer))
    for times, rounds in seconds.items():
        per_unit = min(rounds) / times / min(seconds[1])
        line(f"{unit * times} MB, {min(rounds):.1f} s", f"{per_unit:.2f} a unit", "<= 1.1", per_unit <= 1.1)
