"""Part (b) of bench/data.py: opening a store."""

import os
import struct
import time
from pathlib import Path

import numpy as np
from data_common import child, line

SAMPLES, TOKENS = 10**9, 128  # a document has 1,000 tokens


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


def resident_mb() -> np.ndarray:
    """Memory of this process's own, and pages of the system's cache of files that it has mapped: all processes that read
    the store share those, and the system takes them back when it wants."""
    status = Path("/proc/self/status").read_text()
    return np.array([int(status.split(f"{name}:")[1].split()[0]) / 1024 for name in ("RssAnon", "RssFile")])


def spent(before: np.ndarray, began: float, samples: int) -> dict[str, float]:
    seconds = time.perf_counter() - began
    own, mapped = (resident_mb() - before).tolist()
    return {"seconds": seconds, "own": own, "mapped": mapped, "samples": samples}


def open_ours(folder: Path) -> dict[str, float]:
    """Seconds and MB from nothing to the first batch of 64 windows. Runs in a process of its own."""
    from dist_plm.data.sampling.windows import open_split

    before, began = resident_mb(), time.perf_counter()
    dataset = open_split(folder / "store", "train", (1.0, 0.0, 0.0), sequence_length=TOKENS, seed=1)
    dataset.read(np.arange(64))
    return spent(before, began, dataset.num_windows)


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
    return spent(before, began, len(dataset))


def opening(folder: Path, *, quick: bool) -> None:
    print("\n(b) opening a store and reading the first batch of 64, from nothing; windows of 128 tokens")
    sizes = ((10**6, True), (10**7, False)) if quick else ((10**6, True), (10**7, True), (SAMPLES, False))
    for samples, theirs in sizes:
        write_sparse_store(folder / "store", samples)
        if theirs:
            found = child("open_megatron", folder)
            line(f"Megatron-core, {found['samples']:,.0f} samples", cost(found))
        found = child("open_ours", folder)
        reached = found["seconds"] < 1 and found["own"] + found["mapped"] < 100
        line(f"ours, {found['samples']:,.0f} samples", cost(found), "< 1 s, < 100 MB together", reached)


def cost(found: dict[str, float]) -> str:
    return f"{found['seconds']:.3f} s, {found['own']:.0f} MB own, {found['mapped']:.0f} mapped"
