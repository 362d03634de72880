"""How fast data is prepared and read, beside Megatron-core, Hugging Face and datasketch.

    python bench/data.py                # all parts, some minutes
    python bench/data.py --quick        # smaller sizes, a minute or two
    python bench/data.py --only c d     # some of the parts
    python bench/data.py --memory       # prepares 2 GB of repeated text and reports the largest process

(a) prepare_data from text to store against the bare batch call of Hugging Face's tokenizers, on the same cores;
(b) opening a store of 10^9 samples and reading a batch, against the index that Megatron-core's GPTDataset builds;
(c) pairs for BERT, read, cut, masked and padded, on one core, against Megatron-core's BERT dataset and Hugging Face's collator;
(d) MinHash signatures and near-duplicates of documents, against datasketch at equal recall;
(e) time to prepare 1, 2 and 4 times as much text.

The sides of a comparison take turns in one run. Each line ends with its goal and whether it was reached. Needs the `bench`
extra for (d).
"""

import argparse
import json
import os
import random
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SAMPLES, TOKENS = 10**9, 128  # of (b); a document has 1,000 tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--memory", action="store_true", help="only prepare 2 GB and report memory")
    parser.add_argument("--only", nargs="+", choices="abcde", default=list("abcde"))
    parser.add_argument("--directory", type=Path, default=None, help="for files; up to 4 GB, with --memory 10 GB")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child[0]](Path(options.child[1]))))
        return
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench_data_") as folder:
        if options.memory:
            memory(Path(folder), quick=options.quick)
            return
        parts = {"a": tokenization, "b": opening, "c": pairs, "d": near_duplicates, "e": scaling}
        for name in options.only:
            inner = Path(folder) / name
            inner.mkdir()
            parts[name](inner, quick=options.quick)


def line(name: str, result: str, goal: str = "", reached: bool | None = None) -> None:
    verdict = "" if reached is None else f"  goal {goal}: {'reached' if reached else 'NOT reached'}"
    print(f"  {name:<58}{result:>24}{verdict}", flush=True)


# (a) and (e): preparing


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


def prepare(text: Path, out: Path, *, tokenizer: str, workers: int = 1) -> tuple[float, float]:
    """Runs prepare_data; wall seconds, and the MiB of its largest process."""
    command = [
        *(sys.executable, str(ROOT / "launch" / "prepare_data.py")),
        f"data.sources=[{{path: {text}, document: line}}]",
        *(f"data.out={out}", f"data.workers={workers}", *tokenizer.split()),
    ]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=child_environment(), check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"prepare_data failed:\n{done.stdout}{done.stderr}")
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def child_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}


def trained_tokenizer(folder: Path) -> str:
    """Overrides that name a tokenizer made once, so that only reading and tokenizing are timed."""
    write_text(folder / "sample.txt", 2, seed=1)
    prepare(folder / "sample.txt", folder / "sample", tokenizer="tokenizer=bpe tokenizer.vocab_size=8192")
    return f"tokenizer=file tokenizer.path={folder / 'sample' / 'tokenizer.json'}"


def bare_tokenization(folder: Path) -> float:
    """Seconds of the tokenizers library's batch call over the lines of folder/text.txt. Runs in a process of its own."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "sample" / "tokenizer.json"))
    texts = (folder / "text.txt").read_text(encoding="utf-8").splitlines()
    began = time.perf_counter()
    for start in range(0, len(texts), 1000):
        tokenizer.encode_batch(texts[start : start + 1000])
    return time.perf_counter() - began


def tokenization(folder: Path, *, quick: bool) -> None:
    print("\n(a) from text to store, cleaning off, against the bare batch call of tokenizers; one core each")
    tokenizer = trained_tokenizer(folder)
    size = write_text(folder / "text.txt", 8 if quick else 40)
    write_text(folder / "tiny.txt", 0.001)
    ours, bare, startup = [], [], []
    for turn in range(3):
        bare.append(child("bare_tokenization", folder))
        ours.append(prepare(folder / "text.txt", folder / f"out{turn}", tokenizer=tokenizer)[0])
        startup.append(prepare(folder / "tiny.txt", folder / f"tiny{turn}", tokenizer=tokenizer)[0])
    rates = [size / statistics.median(times) / 1e6 for times in (bare, ours)]
    steady = size / (statistics.median(ours) - statistics.median(startup)) / 1e6
    line("tokenizers, batch call alone", f"{rates[0]:.2f} MB/s")
    line("prepare_data, command to finished store", f"{rates[1]:.2f} MB/s")
    line("  without the second that Python takes to start", f"{steady:.2f} MB/s")
    line("ratio", f"{steady / rates[0]:.2f}", ">= 0.9", steady >= 0.9 * rates[0])


def scaling(folder: Path, *, quick: bool) -> None:
    print("\n(e) time against corpus size")
    tokenizer = trained_tokenizer(folder)
    unit = 4 if quick else 20
    seconds = {}
    for times in (1, 2, 4):
        write_text(folder / f"{times}.txt", unit * times)
        rounds = [
            prepare(folder / f"{times}.txt", folder / f"{times}_{turn}", tokenizer=tokenizer)[0] for turn in range(3)
        ]
        seconds[times] = statistics.median(rounds)
        per_unit = seconds[times] / times / seconds[1]
        line(f"{unit * times} MB, {seconds[times]:.1f} s", f"{per_unit:.2f} a unit", "<= 1.1", per_unit <= 1.1)


# (b): opening


def write_sparse_store(prefix: Path, num_samples: int) -> None:
    """A store with a whole index, whose tokens are a hole in the file system."""
    documents = num_samples * TOKENS // 1000 + 1
    with open(f"{prefix}.idx", "wb") as file:
        file.write(struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, documents, documents + 1))
        step = 2**22
        for start in range(0, documents, step):
            file.write(np.full(min(step, documents - start), 1000, np.int32).tobytes())
        for start in range(0, documents, step):
            file.write((np.arange(start, min(start + step, documents), dtype=np.int64) * 2000).tobytes())
        for start in range(0, documents + 1, step):
            file.write(np.arange(start, min(start + step, documents + 1), dtype=np.int64).tobytes())
    with open(f"{prefix}.bin", "wb") as file:
        file.truncate(documents * 2000)


def resident_mb() -> float:
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1024


def open_ours(folder: Path) -> dict[str, float]:
    """Seconds and MB from nothing to the first batch of 64 windows. Runs in a process of its own."""
    from dist_plm.data.dataset import open_split

    before, began = resident_mb(), time.perf_counter()
    dataset = open_split(folder / "store", "train", (1.0, 0.0, 0.0), sequence_length=TOKENS, seed=1)
    dataset.read(np.arange(64))
    return {"seconds": time.perf_counter() - began, "mb": resident_mb() - before, "samples": dataset.num_windows}


def open_megatron(folder: Path) -> dict[str, float]:
    """The same with Megatron-core's GPTDataset, which builds its index in memory."""
    import logging
    from types import SimpleNamespace

    import torch.distributed as dist
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet_{os.getpid()}", rank=0, world_size=1)
    tokenizer = SimpleNamespace(eod=0, unique_identifiers={}, vocab_size=50_000)
    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=TOKENS,
        blend=([str(folder / "store")], None),
        split="1,0,0",
        path_to_cache=str(folder / f"cache_{os.getpid()}"),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    before, began = resident_mb(), time.perf_counter()
    indexed = IndexedDataset(str(folder / "store"))
    documents = np.arange(len(indexed.document_indices) - 1, dtype=np.int32)
    samples = len(documents) * 1000 // TOKENS
    dataset = GPTDataset(indexed, str(folder / "store"), documents, samples - 1, Split.train, config)
    for i in range(64):
        dataset[i]
    return {"seconds": time.perf_counter() - began, "mb": resident_mb() - before, "samples": len(dataset)}


def opening(folder: Path, *, quick: bool) -> None:
    print("\n(b) opening a store and reading the first batch of 64, from nothing; windows of 128 tokens")
    sizes = ((10**6, True), (10**7, False)) if quick else ((10**6, True), (10**7, True), (SAMPLES, False))
    for samples, theirs in sizes:
        write_sparse_store(folder / "store", samples)
        if theirs:
            found = child("open_megatron", folder)
            line(f"Megatron-core, {found['samples']:,.0f} samples", f"{found['seconds']:.2f} s, {found['mb']:.0f} MB")
        found = child("open_ours", folder)
        reached = found["seconds"] < 1 and found["mb"] < 100
        cost = f"{found['seconds']:.3f} s, {found['mb']:.0f} MB"
        line(f"ours, {found['samples']:,.0f} samples", cost, "< 1 s, < 100 MB", reached)


# (c): pairs


def pairs(folder: Path, *, quick: bool) -> None:
    import torch
    import torch.distributed as dist

    sys.path.insert(0, str(Path(__file__).parent))
    import corruption as shared

    from dist_plm.config.schema import ObjectiveConfig
    from dist_plm.data.pairs import PairDataset
    from dist_plm.data.splits import StoreSplit
    from dist_plm.data.store import TokenStore
    from dist_plm.objectives.build import build_objective

    print("\n(c) masked pairs for BERT from a store, batches of 64, samples a second of one core")
    torch.set_num_threads(1)
    if quick:
        shared.ROUNDS = 3
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
    shared.write_corpus(folder / "corpus")
    store = TokenStore.open(folder / "corpus")
    for length in (128, 512):
        objective = build_objective(
            ObjectiveConfig(name="mlm_nsp"), shared.special_tokens(), seed=1, sequence_length=length
        )
        data = PairDataset(StoreSplit.whole(store), window_length=objective.window_length(length), seed=1)
        sides = [
            shared.Side(
                "ours", lambda n, data=data, objective=objective: objective.collate(data.read(shared.samples_of(n)))
            ),
            shared.megatron(folder / "corpus", length, "Megatron-core, BERTMaskedWordPieceDataset", whole_words=False),
            *shared.hugging_face(store, length)[:1],
        ]
        rates = shared.measure(sides)
        best = max(rate for name, rate in rates.items() if name != "ours")
        for name, rate in rates.items():
            goal = (">= 5x the better", rate >= 5 * best) if name == "ours" else ("", None)
            note = f" ({rate / best:.1f}x)" if name == "ours" else ""
            kind = " (masking alone)" if name.startswith("Hugging") else ""
            line(f"{length} tokens: {name}{kind}", f"{rate:,.0f}{note}", *goal)
    dist.destroy_process_group()


# (d): near-duplicates


def near_duplicates(folder: Path, *, quick: bool) -> None:
    """Documents of which every tenth is an earlier one with some words changed."""
    print("\n(d) near-duplicates by MinHash, documents a second of one core")
    try:
        import datasketch

        from dist_plm.data import minhash
    except ImportError as error:
        line("not measured", f"{error.name} is missing")
        return
    write_text(folder / "text.txt", 2 if quick else 8)
    texts = (folder / "text.txt").read_text(encoding="utf-8").splitlines()
    draw = random.Random(2)
    planted = {}
    for i in range(10, len(texts), 10):
        words = texts[i - 7].split()
        for _ in range(max(1, len(words) // 100)):
            words[draw.randrange(len(words))] = "changed"
        texts[i], planted[i] = " ".join(words), i - 7
    permutations, threshold, size = 128, 0.8, 5
    bands, rows = minhash.bands_and_rows(threshold, permutations, 0.95)

    def ours() -> set[tuple[int, int]]:
        signed = minhash.signatures(texts, size, permutations)
        found = minhash.Signatures([lambda: signed])
        similar = [minhash.similar_pairs(found, band, rows, threshold) for band in range(bands)]
        return {(int(later), int(earlier)) for earlier, later in np.concatenate(similar)}

    def theirs() -> set[tuple[int, int]]:
        index = datasketch.MinHashLSH(num_perm=permutations, params=(bands, rows))
        made = datasketch.MinHash.generator(
            (
                [" ".join(t[k : k + size]).encode() for k in range(max(1, len(t) - size + 1))]
                for t in map(words_of, texts)
            ),
            num_perm=permutations,
        )
        found = set()
        for i, signature in enumerate(made):
            found |= {(i, earlier) for earlier in index.query(signature)}
            index.insert(i, signature, check_duplication=False)
        return found

    spent: dict[str, list[float]] = {}
    recall: dict[str, float] = {}
    for _ in range(3):
        for name, side in (("ours", ours), ("datasketch", theirs)):
            began = time.process_time()
            found = side()
            spent.setdefault(name, []).append(time.process_time() - began)
            recall[name] = sum((later, earlier) in found for later, earlier in planted.items()) / len(planted)
    rates = {name: len(texts) / statistics.median(times) for name, times in spent.items()}
    for name, rate in rates.items():
        goal = ("faster at equal recall", rate > rates["datasketch"] and recall[name] >= recall["datasketch"] - 0.01)
        line(f"{name}, recall {recall[name]:.3f}", f"{rate:,.0f} docs/s", *(goal if name == "ours" else ()))


def words_of(text: str) -> list[str]:
    return text.lower().split()


# memory


def memory(folder: Path, *, quick: bool) -> None:
    """The largest process of preparing repeated text."""
    gigabytes = 0.2 if quick else 2.0
    print(f"\nmemory of preparing {gigabytes} GB of repeated text, 2 workers")
    tokenizer = trained_tokenizer(folder)
    write_text(folder / "part.txt", 20)
    part = (folder / "part.txt").read_bytes().splitlines(keepends=True)
    with (folder / "text.txt").open("wb") as file:
        for copy in range(int(gigabytes * 50)):
            # Otherwise whole documents would be dropped as equal ones.
            file.write(b"".join(b"%d " % copy + text for text in part))
    seconds, largest = prepare(folder / "text.txt", folder / "out", tokenizer=tokenizer, workers=2)
    line(f"{seconds:.0f} s, the largest process", f"{largest:.0f} MiB", "< 1 GB", largest < 1e9 / 2**20)


CHILDREN: dict[str, Callable[[Path], object]] = {
    "bare_tokenization": bare_tokenization,
    "open_ours": open_ours,
    "open_megatron": open_megatron,
}


def child(name: str, folder: Path, arguments: Sequence[str] = ()):
    """What one of CHILDREN returns in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", name, str(folder), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=child_environment(), check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
