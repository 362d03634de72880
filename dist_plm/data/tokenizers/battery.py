"""Texts on which tokenizers differ."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tokenizers as hf

from dist_plm.core.errors import DataError, reason_of
from dist_plm.data.tokenizers.find_special_tokens import is_reserved

#: What tokenizers differ in: accents, case, scripts without spaces, numbers, white space, punctuation, what is invisible.
BATTERY = (
    *(
        "Shall I compare thee to a summer's day? I'll don't WE'VE",
        "Café déjà vu, naïve CAFÉ ÀÉÎÕÜ e\u0301 İstanbul ß ﬁ Å",
    ),
    *("中文 text 混排，標點。日本語のテキスト カタカナ 한국어 문장", "Привет мир Ελληνικά שלום مرحبا हिन्दी ไทย"),
    *("12 345 6789 1,234.56 2026-11-26 ½ ² ٣ 第１２章", "a  b   c\t d\n\ne \r\n f\u00a0g\u3000h\u200bi\u2028j "),
    *(
        "def f(x):\n    return x['k'] != 3  # todo\n",
        "http://example.org/a_b?c=d&e#f user@mail.example ``quoted'' \"x\" --- ...!?",
    ),
    *(
        "🎉👩‍👩‍👧 ≤ € © – ‘’“” \u0007\ufeff\ufffd",
        " leading",
        "trailing ",
        "",
        " ",
        "x" * 120,
        "Ｆｕｌｌ　ｗｉｄｔｈ ＡＢＣ",
    ),
    *("▁a ▁▁b Ġc", "##ing un##known", "<b>bold</b> [link](x) {y} <x> [X]"),
)


@dataclass(frozen=True, slots=True)
class Read:
    """A tokenizer that was read.

    Attributes:
        declared: what files beside it, or its class, say of special tokens, in the form of tokenizer_config.json.
        expected: ids that Transformers gives to texts, where it read the tokenizer.
    """

    tokenizer: hf.Tokenizer
    declared: Sequence[Mapping[str, Any]] = ()
    expected: Mapping[str, Sequence[int]] = field(default_factory=dict)


def texts_for(tokenizer: hf.Tokenizer) -> Iterator[str]:
    """The battery, and within text each added token that text may hold, be it a special one that is a word."""
    yield from BATTERY
    for token in tokenizer.get_added_tokens_decoder().values():
        is_word = token.content.replace(" ", "").isalpha()
        if (is_word or not token.special) and not is_reserved(token.content):
            yield f"a{token.content}b {token.content} c"


def check_ids(read: Read, encode: Callable[[Sequence[str]], Sequence[Sequence[int]]], origin: str) -> None:
    """Raises DataError where a tokenizer cannot encode text, or gives other ids than are expected."""
    texts = list(read.expected) or list(BATTERY)
    try:
        found = encode(texts)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{origin} is damaged: it cannot encode text ({reason_of(error)})") from error
    for text, ids in zip(texts, found, strict=True):
        if list(ids) != list(read.expected.get(text, ids)):
            raise DataError(
                f"{origin} gives other ids here than with Transformers, as of {text[:40]!r}: a special token of it is a word "
                "of text, or its class does more to a text than the library tokenizers; take a tokenizer.json of another class"
            )
