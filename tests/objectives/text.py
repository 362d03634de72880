"""A toy vocabulary and the texts that objectives are tested on."""

import numpy as np

from dist_plm.data.samples import Sentences, Windows
from dist_plm.data.special_tokens import SpecialTokens

VOCAB = 400
PAD, CLS, SEP, MASK, EOS, PREFIX, SUFFIX, MIDDLE = range(8)
SENTINELS = tuple(range(399, 299, -1))
#: Tokens of text: 8 to 299; from 200 on they continue a word.
FIRST, CONTINUED, LAST = 8, 200, 299

CONTINUES = np.zeros(VOCAB, dtype=bool)
CONTINUES[CONTINUED : LAST + 1] = True

SPECIAL = SpecialTokens(
    vocab_size=VOCAB,
    ids=(*range(FIRST), *SENTINELS),
    continues=CONTINUES,
    pad=PAD,
    cls=CLS,
    sep=SEP,
    mask=MASK,
    eos=EOS,
    sentinels=SENTINELS,
    fim_prefix=PREFIX,
    fim_suffix=SUFFIX,
    fim_middle=MIDDLE,
)


def rows_of(windows: Windows, chosen) -> Windows:
    """Some of the rows."""
    return Windows(windows.tokens[chosen], windows.documents[chosen], windows.samples[chosen])


def windows_of(rows: int, length: int, *, seed: int = 0, end_rate: float = 0.02) -> Windows:
    """Random text, `length` + 1 tokens a row, in documents that end with EOS."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(FIRST, LAST + 1, (rows, length + 1))
    ends = draw.random(tokens.shape) < end_rate
    tokens[ends] = EOS
    documents = np.zeros(tokens.shape, dtype=np.int32)
    documents[:, 1:] = np.cumsum(ends[:, :-1], axis=1)
    return Windows(tokens, documents, np.arange(1000, 1000 + rows))


def sentences_of(rows: list[list[list[int]]]) -> Sentences:
    """Runs given as lists of sentences, each a list of tokens."""
    flat = [sentence for run in rows for sentence in run]
    ends = np.cumsum([len(sentence) for sentence in flat])
    runs = np.cumsum([0, *(len(run) for run in rows)])
    return Sentences(np.array([token for sentence in flat for token in sentence]), ends, runs)


def random_runs(draw: np.random.Generator, rows: int, tokens: int, longest: int = 12) -> list[list[list[int]]]:
    """Runs of random sentences that hold `tokens` or more, a third of them less since their document ends."""
    result = []
    for _ in range(rows):
        wanted = tokens if draw.random() < 2 / 3 else int(draw.integers(1, tokens + 1))
        run, held = [], 0
        while held < wanted:
            run.append(draw.integers(FIRST, LAST + 1, draw.integers(1, longest + 1)).tolist())
            held += len(run[-1])
        result.append(run)
    return result


def padded(windows: Windows, *, columns: int = 1) -> Windows:
    """The same rows, each with the text of its end taken away: from 2 tokens to all but the last `columns` are left."""
    width = windows.tokens.shape[1]
    lengths = np.random.default_rng(0).integers(2, width - columns + 1, len(windows.tokens))
    beyond = np.arange(width) >= lengths[:, None]
    last = windows.documents[np.arange(len(lengths)), lengths - 1]
    documents = np.where(beyond, last[:, None] + 1, windows.documents).astype(np.int32)
    return Windows(np.where(beyond, 0, windows.tokens), documents, windows.samples, lengths)


def full_rows(windows: Windows, *, columns: int = 1) -> Windows:
    """The same rows, said to be full."""
    lengths = np.full(len(windows.tokens), windows.tokens.shape[1] - columns)
    return Windows(windows.tokens, windows.documents, windows.samples, lengths)
