"""C4's rules: Raffel et al. 2020, arXiv 1910.10683, section 2.2.

Chinese text ends its sentences with 。！？ and counts its words by jieba. The paper's list of bad words is the user's to
bring. Its removal of repeated spans of three sentences is what `dedup.paragraphs` does, for paragraphs.
"""

import re
from functools import lru_cache
from itertools import islice
from pathlib import Path

from dist_plm.core.errors import DataError, reason_of
from dist_plm.data.clean.page import Page, words_of
from dist_plm.data.text_patterns import ELLIPSES
from dist_plm.spec.prepare.clean import CleanConfig

_TERMINAL = (".", "!", "?", '"', "”", "。", "！", "？", "」", "』", "……")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)|[。！？]+")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[\d{1,4}\]|\[(?:edit|citation needed)\]", re.IGNORECASE)


def terminal_punctuation(page: Page, config: CleanConfig) -> str:
    """Keeps lines that end in a period, exclamation mark, question mark or closing quotation mark, no ellipsis."""
    kept = (line for line in page.lines if line.endswith(_TERMINAL) and not line.endswith(ELLIPSES))
    return "\n".join(kept)


def short_lines(page: Page, config: CleanConfig) -> str:
    """Keeps lines of at least five words."""
    least, chinese = config.c4.min_line_words, page.is_chinese
    # Blank lines stay, so that paragraphs do.
    kept = (line for line in page.text.split("\n") if not line.strip() or len(words_of(line, chinese)) >= least)
    return "\n".join(kept)


def javascript(page: Page, config: CleanConfig) -> str:
    """Removes lines with the word Javascript, which ask for it to be switched on."""
    return _without_lines(page.text, ("javascript",))


def policy(page: Page, config: CleanConfig) -> str:
    """Removes lines that speak of terms of use, privacy policies or cookies."""
    return _without_lines(page.text, _POLICY)


def citations(page: Page, config: CleanConfig) -> str:
    """Removes Wikipedia's markers: [1], [edit], [citation needed]."""
    return _CITATION.sub("", page.text) if "[" in page.text else page.text


def lorem_ipsum(page: Page, config: CleanConfig) -> bool:
    """Drops documents with the words "lorem ipsum"."""
    return "lorem ipsum" not in page.text.lower()


def curly_bracket(page: Page, config: CleanConfig) -> bool:
    """Drops documents with a curly bracket, which natural language does without."""
    return "{" not in page.text


def few_sentences(page: Page, config: CleanConfig) -> bool:
    """Keeps documents of at least three sentences."""
    least = config.c4.min_sentences
    return sum(1 for _ in islice(_SENTENCE_END.finditer(page.text), least)) >= least


def bad_words(page: Page, config: CleanConfig) -> bool:
    """Drops documents with a word of the file `clean.c4.bad_words`; in Chinese anywhere, elsewhere as whole words."""
    assert config.c4.bad_words is not None, "the rules refuse the rule without the file"
    words, pattern = _bad_words(config.c4.bad_words)
    text = page.text.lower()
    return not any(word in text for word in words) if page.is_chinese else pattern.search(text) is None


def _without_lines(text: str, phrases: tuple[str, ...]) -> str:
    if not _has_any(text.lower(), phrases):
        return text
    return "\n".join(line for line in text.split("\n") if not _has_any(line.lower(), phrases))


def _has_any(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)


@lru_cache(maxsize=4)
def _bad_words(path: str) -> tuple[list[str], re.Pattern[str]]:
    try:
        words = Path(path).read_text(encoding="utf-8-sig").lower().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"clean.c4.bad_words = {path!r} cannot be read: {reason_of(error, path)}") from error
    words = [word.strip() for word in words if word.strip()]
    if not words:
        raise DataError(f"clean.c4.bad_words = {path!r} holds no word: give one a line")
    return words, re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")
