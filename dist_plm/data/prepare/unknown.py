"""How much of the text is out of a tokenizer's reach: in a sample before the work begins, in all of it at the end."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dist_plm.data.prepare.documents import DocumentShard, Selection
from dist_plm.data.reach import check_reach, check_unknown, percent
from dist_plm.data.store.manifest import SPLITS, SplitRecord
from dist_plm.data.tokenizers.tokenizer import Tokenizer

_SAMPLED_SHARDS = 32
_SAMPLE_CHARS = 2**16
_COUNTED_AT_ONCE = 2**24


def check_sample(tokenizer: Tokenizer, shards: Sequence[DocumentShard], selection: Selection, most: float) -> None:
    """Looks at the first documents of shards all over the corpus.

    Raises:
        DataError: more than the share `most` of their tokens is unknown, or of their letters has no token.
    """
    check_reach(tokenizer, list(_sample(shards, selection)), most, "of the first documents", _remedy(most))


def _sample(shards: Sequence[DocumentShard], selection: Selection) -> Iterator[str]:
    for shard, splits in list(zip(shards, selection.splits, strict=True))[:: -(-len(shards) // _SAMPLED_SHARDS)]:
        left = _SAMPLE_CHARS
        for text in shard.texts(splits == SPLITS.index("train")):
            yield text[:left]
            left -= len(text)
            if left <= 0:
                break


def check_store(
    store: Path, records: Sequence[SplitRecord], dtype: np.dtype, tokenizer: Tokenizer, most: float
) -> str | None:
    """Counts a store's unknown tokens, and says their share for a person; None where there can be none.

    Raises:
        DataError: it is above `most`.
    """
    unknown = tokenizer.unknown_id()
    if unknown is None:
        return None
    count, total = 0, sum(record.tokens for record in records)
    for record in records:
        if record.tokens:
            tokens = np.memmap(store / f"{record.prefix}.bin", dtype=dtype, mode="r")
            parts = range(0, len(tokens), _COUNTED_AT_ONCE)
            count += sum(int(np.count_nonzero(tokens[i : i + _COUNTED_AT_ONCE] == unknown)) for i in parts)
    check_unknown(count, total, most, "of all documents", _remedy(most))
    return f"{percent(count / max(total, 1))} of the tokens are unknown to the tokenizer"


def _remedy(most: float) -> str:
    return (
        f", more than tokenizer.max_unknown = {most:g}: it was made for other text, or with too few characters. Take one that "
        "was trained on such text, or train one (tokenizer=bpe knows every text; of wordpiece and unigram raise "
        "tokenizer.character_coverage), or raise tokenizer.max_unknown if that is meant"
    )
