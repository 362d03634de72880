"""Samples a second of masked-language-model batches, on one core: ours beside Hugging Face's collator and Megatron-core's
BERT dataset.

    python bench/corruption.py

Every side reads the same synthetic corpus of WordPiece-like tokens in sentences and documents, and makes batches of 64
samples: windows of text (Hugging Face's form) or pairs of segments (Megatron's). Sides take turns within each round, each
is charged its own CPU time, and the table shows medians over the rounds.

Windows lie in memory for both, as Hugging Face's collator has them; pairs are read from the store by both. That collator is
timed as its examples use it, on lists of token numbers with the special-tokens mask prepared in advance, and for its
masking step alone on tensors that are already stacked.
"""

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from megatron.core.datasets.bert_dataset import (  # noqa: E402
    BERTMaskedWordPieceDataset,
    BERTMaskedWordPieceDatasetConfig,
)
from megatron.core.datasets.indexed_dataset import IndexedDataset  # noqa: E402
from megatron.core.datasets.utils import Split  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import WordPiece  # noqa: E402
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast  # noqa: E402

from dist_plm.core.randomness.permutation import mix_many  # noqa: E402
from dist_plm.data.samples import Pairs, Sentences  # noqa: E402
from dist_plm.data.sampling.windows import WindowDataset  # noqa: E402
from dist_plm.data.special_tokens import SpecialTokens, word_continuations  # noqa: E402
from dist_plm.data.store.store import TokenStore, TokenStoreWriter  # noqa: E402
from dist_plm.objectives.base import Objective  # noqa: E402
from dist_plm.objectives.build import build_objective  # noqa: E402
from dist_plm.spec.objectives import OBJECTIVES  # noqa: E402

VOCAB = 30_522
PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
#: A fifth of the pieces continue a word.
PIECES = [*SPECIAL_PIECES, *(f"##p{i}" if i % 5 == 0 else f"p{i}" for i in range(5, VOCAB))]
BATCH = 64
ROUNDS = 9
SECONDS = 0.15  # of CPU time a side and round


@dataclass(frozen=True)
class Side:
    """Something that makes batch number n."""

    name: str
    make: Callable[[int], object]


def special_tokens() -> SpecialTokens:
    ids = tuple(range(len(SPECIAL_PIECES)))
    continues = word_continuations(PIECES, "wordpiece", special=ids)
    return SpecialTokens(vocab_size=VOCAB, ids=ids, continues=continues, pad=PAD, cls=CLS, sep=SEP, mask=MASK)


def write_corpus(prefix: Path, *, num_documents: int = 3000) -> None:
    """Documents of 4 to 60 sentences of 5 to 45 tokens."""
    draw = np.random.default_rng(0)
    with TokenStoreWriter(prefix, np.dtype(np.int32)) as writer:
        for _ in range(num_documents):
            lengths = draw.integers(5, 46, draw.integers(4, 61))
            writer.add_document(draw.integers(len(SPECIAL_PIECES), VOCAB, lengths.sum()), lengths.tolist())


class SentencePairs:
    """Two runs of sentences for each sample: the least sampler that serves `Pairs`."""

    def __init__(self, store: TokenStore, tokens: int) -> None:
        self.store, self.tokens = store, tokens
        self.ends = np.cumsum(store.sequence_lengths().astype(np.int64))
        documents = np.asarray(store.document_indices())
        self.last = np.repeat(documents[1:], np.diff(documents))

    def read(self, samples: np.ndarray) -> Pairs:
        starts = [(mix_many(purpose, samples) % np.uint64(len(self.ends))).astype(np.int64) for purpose in (0, 1)]
        first, second = (self._runs(start) for start in starts)
        return Pairs(first, second, samples)

    def _runs(self, start: np.ndarray) -> Sentences:
        begin = np.where(start > 0, self.ends[start - 1], 0)
        stop = np.minimum(np.searchsorted(self.ends, begin + self.tokens) + 1, self.last[start])
        tokens = [self.store.read(a, b - a) for a, b in zip(begin.tolist(), self.ends[stop - 1].tolist(), strict=True)]
        counts = stop - start
        lengths = np.concatenate(
            [np.diff(self.ends[a:b], prepend=c) for a, b, c in zip(start, stop, begin, strict=True)]
        )
        return Sentences(
            tokens=np.concatenate(tokens), ends=np.cumsum(lengths), runs=np.concatenate([[0], np.cumsum(counts)])
        )


def samples_of(batch: int) -> np.ndarray:
    return np.arange(batch * BATCH, (batch + 1) * BATCH)


def our_windows(store: TokenStore, length: int, name: str, *, from_disk: bool = False, **settings) -> Side:
    objective: Objective = build_objective(OBJECTIVES["mlm"](name="mlm", **settings), special_tokens(), seed=1)
    dataset = WindowDataset(store, sequence_length=objective.window_length(length), seed=1)
    if from_disk:
        return Side(name, lambda n: objective.collate(dataset.read(samples_of(n))))
    windows = dataset.read(samples_of(0))
    return Side(name, lambda n: objective.collate(windows))


def our_pairs(store: TokenStore, length: int, name: str, objective: str, **settings) -> Side:
    config = OBJECTIVES[objective](name=objective, **settings)
    built = build_objective(config, special_tokens(), seed=1, sequence_length=length)
    pairs = SentencePairs(store, built.window_length(length))
    return Side(name, lambda n: built.collate(pairs.read(samples_of(n))))


def hugging_face(store: TokenStore, length: int) -> list[Side]:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]")),
        **{f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")},
    )
    texts = [[CLS, *store.read(n * length, length - 2).tolist(), SEP] for n in range(BATCH)]
    special = [[int(t < len(SPECIAL_PIECES)) for t in text] for text in texts]
    examples = [{"input_ids": t, "special_tokens_mask": s} for t, s in zip(texts, special, strict=True)]
    stacked, mask = torch.tensor(texts), torch.tensor(special)
    collators = {kind: DataCollatorForLanguageModeling(tokenizer, return_tensors=kind) for kind in ("pt", "np")}
    return [
        Side("Hugging Face collator, torch", lambda n: collators["pt"](examples)),
        Side("Hugging Face collator, numpy", lambda n: collators["np"](examples)),
        Side("  its masking step alone, torch", lambda n: collators["pt"].torch_mask_tokens(stacked.clone(), mask)),
    ]


def megatron(
    prefix: Path, length: int, name: str, *, whole_words: bool, ngram: int = 1, geometric: bool = False
) -> Side:
    tokenizer = SimpleNamespace(
        cls=CLS, sep=SEP, mask=MASK, pad=PAD, inv_vocab=dict(enumerate(PIECES)), unique_identifiers={}, eod=SEP
    )
    config = BERTMaskedWordPieceDatasetConfig(
        random_seed=1,
        sequence_length=length,
        blend=([str(prefix)], None),
        split="1,0,0",
        path_to_cache=str(prefix.parent / "cache"),
        tokenizer=tokenizer,
        masking_probability=0.15,
        short_sequence_probability=0.1,
        masking_max_ngram=ngram,
        masking_do_full_word=whole_words,
        masking_do_permutation=False,
        masking_use_longer_ngrams=False,
        masking_use_geometric_distribution=geometric,
        classification_head=True,
    )
    indexed = IndexedDataset(str(prefix))
    documents = np.arange(len(indexed.document_indices) - 1, dtype=np.int32)
    dataset = BERTMaskedWordPieceDataset(indexed, str(prefix), documents, 100_000, Split.train, config)
    return Side(name, lambda n: [dataset[int(i)] for i in samples_of(n) % len(dataset)])


def measure(sides: list[Side]) -> dict[str, float]:
    """Samples a CPU second of each side."""
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for side in sides:
        side.make(0)
    for turn in range(ROUNDS):
        for side in sides:
            batches, started = 0, time.process_time()
            while (spent := time.process_time() - started) < SECONDS:
                side.make(100 * turn + batches)
                batches += 1
            rates[side.name].append(batches * BATCH / spent)
    return {name: statistics.median(values) for name, values in rates.items()}


def report(title: str, sides: list[Side]) -> None:
    rates = measure(sides)
    best_peer = max(rate for name, rate in rates.items() if not name.startswith(("ours", " ")))
    print(f"\n{title}\n{'':46}{'samples/s':>12}{'to best peer':>15}")
    for name, rate in rates.items():
        print(f"{name:46}{rate:12,.0f}{rate / best_peer:14.1f}x")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
        prefix = Path(folder) / "corpus"
        write_corpus(prefix)
        store = TokenStore.open(prefix)
        for length in (128, 512):
            windows = [
                our_windows(store, length, "ours"),
                our_windows(store, length, "ours, windows read from the store too", from_disk=True),
                our_windows(store, length, "ours, whole words", mask_units="words"),
                our_windows(store, length, "ours, SpanBERT spans", mask_units="spans"),
                *hugging_face(store, length),
            ]
            report(f"Masked windows of {length} tokens, batches of {BATCH}", windows)
            pairs = [
                our_pairs(store, length, "ours, random second segment", "mlm_nsp"),
                our_pairs(store, length, "ours, swapped order", "mlm_sop"),
                our_pairs(store, length, "ours, swapped order, whole words", "mlm_sop", mask_units="words"),
                our_pairs(store, length, "ours, swapped order, SpanBERT spans", "mlm_sop", mask_units="spans"),
                megatron(prefix, length, "Megatron-core", whole_words=False),
                megatron(prefix, length, "Megatron-core, whole words", whole_words=True),
                megatron(prefix, length, "Megatron-core, SpanBERT n-grams", whole_words=True, ngram=10, geometric=True),
            ]
            report(f"Masked pairs of segments in {length} tokens, batches of {BATCH}", pairs)
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
