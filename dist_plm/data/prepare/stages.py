"""The stages of `prepare` that make tokens. Each writes files that are whole or absent, one a unit of input, and skips
those it finds: an interrupted run goes on where it was, and the result does not depend on the number of processes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dist_plm.core.files import link_or_copy, sha256_of
from dist_plm.data.prepare.documents import DocumentShard, Selection
from dist_plm.data.prepare.task_progress import progress_bar
from dist_plm.data.prepare.training_text import TrainingText
from dist_plm.data.prepare.unknown import check_sample
from dist_plm.data.prepare.worker_group import WorkerGroup
from dist_plm.data.store.manifest import SPLITS, SplitRecord
from dist_plm.data.store.sentences import sentences
from dist_plm.data.store.store import TokenStore, TokenStoreWriter, dtype_for
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.train_tokenizer import train
from dist_plm.spec.prepare.schema import TokenizerConfig

Report = Callable[[str], None]

_BATCH_CHARS = 2**20
_BATCH_TEXTS = 4096


def make_tokenizer(
    config: TokenizerConfig, shards: Sequence[DocumentShard], selection: Selection, path: Path, report: Report
) -> Tokenizer:
    """Trains the tokenizer on the train split, or loads the one that is given, and writes its files, `path` last."""
    if not path.exists():
        if config.path is not None:
            made = Tokenizer.load(config.path, config.end_of_document, sentinels=config.num_sentinels)
        else:
            made = _train(config, shards, selection, report)
        if config.end_of_document is not None:
            made.refuse_text([config.end_of_document], "tokenizer.end_of_document")
        made.refuse_text(config.special, "tokenizer.special")
        check_sample(made, shards, selection, config.max_unknown)
        made.save_directory(path.parent)
    return Tokenizer.load(path, config.end_of_document)


def _train(config: TokenizerConfig, shards: Sequence[DocumentShard], selection: Selection, report: Report) -> Tokenizer:
    began = time.perf_counter()
    with progress_bar("choose text for the tokenizer", selection.split_bytes["train"]) as bar:
        text = TrainingText.of(config, shards, selection, bar)
        bar.set_description("train tokenizer")
        tokenizer = train(config, text)
    seconds = time.perf_counter() - began
    report(f"trained a tokenizer of {tokenizer.vocab_size:,} tokens in {seconds:.1f} s")
    if tokenizer.vocab_size < config.vocab_size:
        more = "pieces to learn" if config.name == "unigram" else "pairs to merge"
        report(f"  tokenizer.vocab_size asked for {config.vocab_size:,}, but the text holds no more {more}")
    return tokenizer


@dataclass(frozen=True, slots=True)
class TokenizeTask:
    """`splits` is the shard's part of Selection.splits; the three stores go to `prefix`.train and so on."""

    shard: DocumentShard
    splits: np.ndarray
    tokenizer: Path
    tokenizer_sha256: str
    end_of_document: str
    sentences: bool
    prefix: str

    @property
    def stores(self) -> list[str]:
        return [f"{self.prefix}.{name}" for name in SPLITS]

    @property
    def is_complete(self) -> bool:
        return all(Path(store + ".idx").exists() for store in self.stores)

    @property
    def num_bytes(self) -> int:
        return self.shard.text_path.stat().st_size


def tokenize(
    shards: Sequence[DocumentShard],
    selection: Selection,
    tokenizer: Path,
    end_of_document: str,
    folder: Path,
    group: WorkerGroup,
    report: Report,
    *,
    by_sentences: bool = False,
) -> list[TokenizeTask]:
    """Tokenizes every shard into three stores, one a split.

    Each document is followed by `end_of_document`, or stored as one sequence a sentence without it.
    """
    folder.mkdir(exist_ok=True)
    sha256 = sha256_of(tokenizer)
    tasks = [
        TokenizeTask(shard, splits, tokenizer, sha256, end_of_document, by_sentences, str(folder / shard.prefix.name))
        for shard, splits in zip(shards, selection.splits, strict=True)
    ]
    num_bytes, seconds = group.run(_tokenize, tasks, "tokenize")
    report(f"tokenized {num_bytes / 1e6:.1f} MB in {seconds:.1f} s, {num_bytes / seconds / 1e6:.1f} MB/s")
    return tasks


def _tokenize(task: TokenizeTask) -> None:
    tokenizer = _loaded(task.tokenizer, task.tokenizer_sha256, task.end_of_document)
    dtype = dtype_for(tokenizer.vocab_size)
    for split, prefix in enumerate(task.stores):
        with TokenStoreWriter(prefix, dtype) as writer:
            for batch in batched(task.shard.texts(task.splits == split)):
                if task.sentences:
                    writer.add_documents(*sentence_tokens(tokenizer, batch))
                else:
                    writer.add_documents(_ended(tokenizer, batch))


def _ended(tokenizer: Tokenizer, texts: Sequence[str]) -> Sequence[Sequence[int]]:
    documents = tokenizer.encode_batch(texts)
    for ids in documents:
        ids.append(tokenizer.end_of_document_id)
    return documents


def sentence_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[list[Sequence[int]], list[int]]:
    """The tokens of each sentence of all texts, and how many sentences each text has.

    Sentences without tokens are left out, and so are texts without sentences.
    """
    parts = [sentences(text) for text in texts]
    tokens = tokenizer.encode_batch([sentence for part in parts for sentence in part])
    counts, start = [], 0
    for part in parts:
        counts.append(sum(map(bool, tokens[start : start + len(part)])))
        start += len(part)
    return [ids for ids in tokens if ids], [count for count in counts if count]


@lru_cache(maxsize=1)
def _loaded(path: Path, sha256: str, end_of_document: str) -> Tokenizer:
    return Tokenizer.load(path, end_of_document)


def join(tasks: Sequence[TokenizeTask], selection: Selection, vocab_size: int, store: Path) -> list[SplitRecord]:
    """Joins the shards' stores into one a split, in order, and hashes them."""
    records = []
    for split, name in enumerate(SPLITS):
        prefix = store / name
        _join([Path(task.stores[split]) for task in tasks], prefix, dtype_for(vocab_size))
        joined = TokenStore.open(prefix)
        records.append(
            SplitRecord(
                prefix=name,
                documents=joined.num_documents,
                tokens=joined.num_tokens,
                text_bytes=selection.split_bytes[name],
                bin_sha256=sha256_of(store / f"{name}.bin"),
                idx_sha256=sha256_of(store / f"{name}.idx"),
            )
        )
    return records


def _join(shards: Sequence[Path], prefix: Path, dtype: np.dtype) -> None:
    """A single shard gets a second name; several are copied together, by reference where the file system can."""
    if len(shards) == 1:
        for suffix in (".bin", ".idx"):
            link_or_copy(Path(f"{shards[0]}{suffix}"), Path(f"{prefix}{suffix}"))
        return
    with TokenStoreWriter(prefix, dtype) as writer:
        for shard in shards:
            writer.append(TokenStore.open(shard))


def batched(texts: Iterator[str]) -> Iterator[list[str]]:
    """Texts in batches that are large enough for the tokenizer and small enough for memory."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARS or len(batch) == _BATCH_TEXTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
