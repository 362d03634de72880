"""A document as the rules of cleaning see it: lines, paragraphs, words, and whether it is Chinese."""

import logging
import re
from functools import cached_property

from dist_plm.data.text_patterns import HAN, KANA, LETTER, PARAGRAPH_END

_HAN, _KANA = re.compile(f"[{HAN}]"), re.compile(f"[{KANA}]")
#: Of its letters: where a third is Han, words are not found by white space.
_HAN_SHARE = 1 / 3
_SAMPLE_CHARS = 4096


class Page:
    """A text with what several rules need of it, found once, when it is first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def is_chinese(self) -> bool:
        """Whether it is written mainly in Han characters, by its beginning. Japanese text, which has kana, is not."""
        sample = self.text[:_SAMPLE_CHARS]
        num_han = 0 if sample.isascii() else len(_HAN.findall(sample))
        if not num_han:
            return False
        return num_han > _HAN_SHARE * len(LETTER.findall(sample)) and len(_KANA.findall(sample)) < 0.1 * num_han

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank, without white space around them."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Divides a text at blank lines."""
        return [part for part in map(str.strip, PARAGRAPH_END.split(self.text)) if part]

    @cached_property
    def words(self) -> list[str]:
        """Divides a text at white space; in Chinese, into the words that jieba's dictionary finds, without punctuation."""
        return words_of(self.text, self.is_chinese)


def words_of(text: str, is_chinese: bool) -> list[str]:
    """Words of a text; see Page.words."""
    if not is_chinese:
        return text.split()
    import jieba  # takes a second and 100 MB, which English corpora can do without

    jieba.setLogLevel(logging.WARNING)
    # Without the hidden Markov model for unknown words: three times as fast, and counts hardly differ.
    return [word for word in jieba.cut(text, HMM=False) if any(map(str.isalnum, word))]
