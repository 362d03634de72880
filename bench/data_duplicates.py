"""Part (d) of bench/data.py: near-duplicates."""

import random
import statistics
import time
from pathlib import Path

import numpy as np
from data_common import line
from data_preparing import write_text


def near_duplicates(folder: Path, *, quick: bool) -> None:
    """Documents of which every tenth is an earlier one with some words changed."""
    print("\n(d) near-duplicates by MinHash, documents a second of one core")
    try:
        import datasketch

        from dist_plm.data.dedup import minhash
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
