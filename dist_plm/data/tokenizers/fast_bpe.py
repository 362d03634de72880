"""Byte-level BPE by tiktoken, which gives the ids of `tokenizers` several times as fast.

It merges whatever two neighbours make a known token, the earliest learnt first, where `tokenizers` merges the pairs that it
was given. Where the bytes of every token, taken alone, become that token, both take the same way: two neighbours that make
a token come to stand there as they do in the token alone, whose last step is the only pair that it was given for.
What remains is how the two libraries' regular expressions class characters: each is compared when it is first seen.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tokenizers as hf
from numpy.typing import NDArray
from tokenizers import models, pre_tokenizers

from dist_plm.core.panics import is_panic

log = logging.getLogger(__name__)

#: Of GPT-2 (Radford et al. 2019), as ByteLevel has it within.
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
#: In white space of a million characters tiktoken's regular expressions lose their way.
_LONG_SPACE = re.compile(r"\s{1000}")
#: Of every 250th character: a thousand in a row are four of them, and hardly a text has so many to be looked through.
_PERHAPS_LONG_SPACE = re.compile(r"\s{4}")
_UNSEEN, _ALIKE, _UNLIKE = range(3)
_NUM_CODE_POINTS = 0x110000
_SAMPLE_CHARS = 500
#: Where a character stands when its class is compared.
_PLACES = (
    "a{0}b {0}c 1{0}2 .{0}. {0}{0} \n{0}\n x'{0}x x'{0}e x'l{0} x'v{0} x'r{0} X'{0} {0}9 {0}x {0}. \t{0} \r{0}\r\n{0}"
)

Ids = list[int]
Encode = Callable[[Sequence[str]], list[Ids]]


class FastBPE:
    """Encodes texts as `slow` does, for which it falls back where that is not sure.

    Args:
        encoding: tiktoken's, whose ranks are ids.
        slow: by `tokenizers`.
        origin: what messages call the tokenizer.
    """

    def __init__(self, encoding: Any, slow: Encode, origin: str) -> None:
        self._encoding, self._slow, self._origin = encoding, slow, origin
        self._state = np.full(_NUM_CODE_POINTS, _UNSEEN, dtype=np.uint8)
        self._compare(np.arange(128, dtype=np.uint32))
        self._ascii = bool((self._state[:128] == _ALIKE).all())
        self._works = True

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        if not self._works or not self._agrees_on(texts):
            return self._slow(texts)
        fast = [self._encode(text) if self._is_sure(text) else None for text in texts]
        rest = iter(self._slow([text for text, ids in zip(texts, fast, strict=True) if ids is None]))
        return [next(rest) if ids is None else ids for ids in fast]

    def _agrees_on(self, texts: Sequence[str]) -> bool:
        """Compares a sample: by all that is known of the libraries it is the same."""
        sample = texts[len(texts) // 2][:_SAMPLE_CHARS] if texts else ""
        if not self._is_sure(sample) or self._encode(sample) in (None, *self._slow([sample])):
            return True
        self._works = False
        log.warning(
            "%s: tiktoken gives other ids than tokenizers to %r: tokenizers goes on alone, more slowly",
            self._origin,
            sample[:80],
        )
        return False

    def _encode(self, text: str) -> Ids | None:
        """None where tiktoken gives up on a text."""
        try:
            return self._encoding.encode_ordinary(text)
        except BaseException as error:
            if not is_panic(error):
                raise
            return None

    def _is_sure(self, text: str) -> bool:
        if _PERHAPS_LONG_SPACE.search(text[::250]) and _LONG_SPACE.search(text):
            return False
        if text.isascii():
            return self._ascii
        try:
            points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        except UnicodeEncodeError:  # half a surrogate pair
            return False
        states = self._state[points]
        if states.min() == _UNSEEN:
            self._compare(np.unique(points[states == _UNSEEN]))
            states = self._state[points]
        return states.max() == _ALIKE

    def _compare(self, points: NDArray[np.uint32]) -> None:
        places = [_PLACES.format(chr(point)) for point in points.tolist()]
        for point, text, ids in zip(points.tolist(), places, self._slow(places), strict=True):
            self._state[point] = _ALIKE if self._encode(text) == ids else _UNLIKE


def fast_bpe(tokenizer: hf.Tokenizer, slow: Encode, origin: str) -> FastBPE | None:
    """`slow` made fast; None where the tokenizer is no plain byte-level BPE, or its merges are not those of tiktoken."""
    pattern = _pattern(tokenizer)
    if pattern is None or any(not token.special for token in tokenizer.get_added_tokens_decoder().values()):
        return None
    ranks = _ranks(tokenizer.model)
    if ranks is None or not _is_stable(tokenizer.model, ranks):
        return None
    import tiktoken  # 0.1 s, and only who tokenizes text needs it

    try:
        encoding = tiktoken.Encoding("given", pat_str=pattern, mergeable_ranks=_as_bytes(ranks), special_tokens={})
    except ValueError:  # a regular expression of another dialect
        return None
    return FastBPE(encoding, slow, origin)


def _pattern(tokenizer: hf.Tokenizer) -> str | None:
    """Finds what divides text into words; None where text is changed before, or divided in another way."""
    if (
        tokenizer.normalizer is not None
        or not isinstance(tokenizer.model, models.BPE)
        or tokenizer.pre_tokenizer is None
    ):
        return None
    state = json.loads(tokenizer.pre_tokenizer.__getstate__())
    if state["type"] == "ByteLevel":
        return _GPT2 if state["use_regex"] and not state["add_prefix_space"] else None
    steps = state.get("pretokenizers", ())
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, level = steps
    plain = split["behavior"] == "Isolated" and not split["invert"] and "Regex" in split["pattern"]
    return split["pattern"]["Regex"] if plain and not level["use_regex"] and not level["add_prefix_space"] else None


def _ranks(model: models.BPE) -> dict[str, int] | None:
    """Token -> id of all that text may become; None where ids do not follow the order of the merges."""
    state = json.loads(model.__getstate__())
    odd = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    vocabulary, alphabet = state["vocab"], pre_tokenizers.ByteLevel.alphabet()
    if any(state.get(name) for name in odd) or not vocabulary.keys() >= set(alphabet):
        return None
    made = ["".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in state["merges"]]
    ids = [vocabulary[piece] for piece in made]
    if ids != sorted(set(ids)):
        return None
    return {piece: vocabulary[piece] for piece in (*alphabet, *made)}


def _is_stable(model: models.BPE, ranks: dict[str, int]) -> bool:
    """Whether every token's bytes, taken alone, become that token."""
    alone = hf.Tokenizer(model).encode_batch_fast(list(ranks), add_special_tokens=False)
    return all(encoding.ids == [number] for encoding, number in zip(alone, ranks.values(), strict=True))


def _as_bytes(ranks: dict[str, int]) -> dict[bytes, int]:
    """The tokens without the disguise of GPT-2's files, in which every byte is a letter."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
    return {bytes(byte_of[letter] for letter in piece): number for piece, number in ranks.items()}
