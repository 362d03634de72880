"""The text that a tokenizer is trained on: no more of the train split than the trainers have memory for."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray
from tqdm import tqdm

from dist_plm.core.randomness.permutation import mix
from dist_plm.data.prepare.documents import DocumentShard, Selection
from dist_plm.data.store.manifest import SPLITS
from dist_plm.data.text_patterns import HAN
from dist_plm.data.tokenizers.long_texts import pieces_of
from dist_plm.spec.prepare.schema import TokenizerConfig

#: Longer texts are cut: the trainers hold hundreds of texts at a time.
_PIECE_CHARS = 2**16
_BATCH_CHARS = 2**20
_MOST_BYTES = 2**30
#: SentencePiece holds all text, and some twenty times as much where no spaces divide it, as in Chinese (measured: 18).
_SENTENCEPIECE_BYTES = 20
#: The trainers keep every different word apart, with all its characters and pairs. Measured: 60 to 90 bytes for each of
#: its bytes and eight more, on English and Chinese text.
TRAINER_BYTES = 90
_WORD_BYTES = 8
#: What each kind of tokenizer divides text into before it learns: about.
_WORDS = {
    "bpe": re.compile(r"\w+|[^\w\s]+"),
    "bpe_roberta": re.compile(r"\w+|[^\w\s]+"),
    "wordpiece": re.compile(rf"[{HAN}]|[^\W{HAN}]+|[^\w\s]"),
}


@dataclass(frozen=True, slots=True)
class TrainingText:
    """Batches of pieces of text, again each time they are asked for: of the train split's documents the share
    `documents`, and of their pieces the share `pieces`, both by hash."""

    shards: Sequence[DocumentShard]
    selection: Selection
    documents: float
    pieces: float
    bar: tqdm

    @classmethod
    def of(
        cls, config: TokenizerConfig, shards: Sequence[DocumentShard], selection: Selection, bar: tqdm
    ) -> "TrainingText":
        """As much as `config.memory_mb` lets it be, and a GiB at most; see `fitting_share`."""
        available, memory_bytes = selection.split_bytes["train"], config.memory_mb * 10**6
        documents = min(1.0, _MOST_BYTES / available)
        if config.name == "unigram":
            pieces = min(1.0, memory_bytes / _SENTENCEPIECE_BYTES / (documents * available))
        else:
            keyed = cls(shards, selection, documents, 1.0, bar).keyed()
            pieces = fitting_share(keyed, _WORDS[config.name], memory_bytes // TRAINER_BYTES)
        return cls(shards, selection, documents, pieces, bar)

    def __iter__(self) -> Iterator[list[str]]:
        self.bar.reset()
        batch: list[str] = []
        size = 0
        for key, piece in self.keyed():
            if key >= self.pieces:
                continue
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH_CHARS:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch
        self.bar.set_description("learn merges")

    def keyed(self) -> Iterator[tuple[float, str]]:
        """All pieces of the chosen documents, each with a number in [0, 1) that is as good as drawn."""
        for shard, splits in zip(self.shards, self.selection.splits, strict=True):
            entries = shard.entries()
            lows: NDArray[np.uint64] = entries["low"]
            chosen = (splits == SPLITS.index("train")) & (lows < self.documents * 2.0**64)
            for low, text in zip(lows[chosen].tolist(), shard.texts(chosen), strict=True):
                for number, piece in enumerate(pieces_of(text, _PIECE_CHARS)):
                    yield mix(low, number) / 2.0**64, piece
            self.bar.update(int(np.diff(entries["end"], prepend=0)[chosen].sum()))


def fitting_share(pieces: Iterator[tuple[float, str]], words: re.Pattern[str], budget: int) -> float:
    """The largest of the shares 1, 1/2, 1/4, … of pieces (key, text) whose different words fit into `budget` bytes.

    A share is that of the pieces with keys below it. What comes out does not depend on their order, and no more words
    are held than fit: each with the lowest key that it was seen with, those above the share forgotten.
    """
    share, size = 1.0, 0
    lowest: dict[int, tuple[float, int]] = {}
    for key, piece in pieces:
        if key >= share:
            continue
        for word in set(words.findall(piece)):
            content = word.encode()
            number = xxhash.xxh3_64_intdigest(content)
            known = lowest.get(number)
            if known is None:
                lowest[number] = (key, len(content) + _WORD_BYTES)
                size += len(content) + _WORD_BYTES
            elif key < known[0]:
                lowest[number] = (key, known[1])
        while size > budget:
            share /= 2
            lowest = {number: kept for number, kept in lowest.items() if kept[0] < share}
            size = sum(cost for _, cost in lowest.values())
    return share
