"""Splits texts into the words whose n-grams BLEU counts, as sacrebleu's tokenizers do."""

import re
from collections.abc import Callable, Mapping

#: Entities that the script of NIST reads as characters.
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
#: Its rules, in their order: ASCII punctuation stands alone, dots and commas but between digits, a dash behind a digit.
_RULES = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
#: Characters that stand alone in Chinese text: ideographs, their radicals and strokes, full-width forms, symbols. sacrebleu
#: means planes 2 of ideographs by the last two, and gets U+2000 to U+2A6D and U+2F80 to U+2FA1 instead; so that numbers can be
#: compared, so does this.
_CHINESE = re.compile(
    "([\u3400-\u4db5\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\uff00-\uffef\u2e80-\u2eff\u3000-\u303f"
    "\u31c0-\u31ef\u2f00-\u2fdf\u2ff0-\u2fff\u3100-\u312f\u31a0-\u31bf\ufe10-\ufe1f\ufe30-\ufe4f\u3200-\u33ff"
    "\u2001-\u2a6d\u2f81-\u2fa1])"
)


def words_13a(text: str) -> list[str]:
    """Splits a text as mteval-v13a.pl of NIST does, sacrebleu's default."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return _words(f" {text} ")


def words_zh(text: str) -> list[str]:
    """Splits Chinese text: its characters stand alone, and the rest is split by the rules of `13a`."""
    return _words(_CHINESE.sub(r" \1 ", text.strip()))


def words_char(text: str) -> list[str]:
    """Splits a text into its characters but white space."""
    return [character for character in text if not character.isspace()]


def _words(text: str) -> list[str]:
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.split()


#: By the names that sacrebleu has for them.
SPLITTERS: Mapping[str, Callable[[str], list[str]]] = {"13a": words_13a, "zh": words_zh, "char": words_char}
