"""Gopher's rules of quality and repetition: Rae et al. 2021, arXiv 2112.11446, appendix A1.1 and its table A1.

Words of Chinese are jieba's. Two rules say nothing of Chinese and keep it: the mean length of words, which is below two
characters there, and the English stop words.
"""

from collections.abc import Sequence

from dist_plm.data.clean.ngrams import NGrams
from dist_plm.data.clean.page import Page
from dist_plm.data.text_patterns import ELLIPSES
from dist_plm.spec.prepare.clean import CleanConfig

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_BULLETS = ("•", "‣", "▪", "●", "■", "◦", "·", "-", "*")


def word_count(page: Page, config: CleanConfig) -> bool:
    """Keeps documents of 50 to 100,000 words."""
    return config.gopher.min_words <= len(page.words) <= config.gopher.max_words


def word_length(page: Page, config: CleanConfig) -> bool:
    """Keeps documents whose words have 3 to 10 characters on average; says nothing of Chinese."""
    if page.is_chinese:
        return True
    mean = sum(map(len, page.words)) / max(len(page.words), 1)
    return config.gopher.min_word_length <= mean <= config.gopher.max_word_length


def symbols(page: Page, config: CleanConfig) -> bool:
    """Keeps documents with at most 0.1 hash signs, and at most 0.1 ellipses, a word."""
    most = config.gopher.max_symbols * len(page.words)
    return page.text.count("#") <= most and sum(map(page.text.count, ELLIPSES)) <= most


def bullets(page: Page, config: CleanConfig) -> bool:
    """Keeps documents in which at most 90 % of the lines begin with a bullet."""
    return _share(line.startswith(_BULLETS) for line in page.lines) <= config.gopher.max_bullet_lines


def ellipses(page: Page, config: CleanConfig) -> bool:
    """Keeps documents in which at most 30 % of the lines end with an ellipsis."""
    return _share(line.endswith(ELLIPSES) for line in page.lines) <= config.gopher.max_ellipsis_lines


def alphabetic(page: Page, config: CleanConfig) -> bool:
    """Keeps documents in which at least 80 % of the words have a letter, which a Chinese character is."""
    return (
        _share(word.isalpha() or any(map(str.isalpha, word)) for word in page.words)
        >= config.gopher.min_alphabetic_words
    )


def stop_words(page: Page, config: CleanConfig) -> bool:
    """Keeps documents with two different ones of: the, be, to, of, and, that, have, with; says nothing of Chinese."""
    return page.is_chinese or len(STOP_WORDS.intersection(map(str.lower, page.words))) >= config.gopher.min_stop_words


def repetition(page: Page, config: CleanConfig) -> bool:
    """Keeps documents with few repeated lines, paragraphs and n-grams (table A1). The first of equals is no repetition."""
    gopher = config.gopher
    for parts, most, most_chars in (
        (page.lines, gopher.max_duplicate_lines, gopher.max_duplicate_line_chars),
        (page.paragraphs, gopher.max_duplicate_paragraphs, gopher.max_duplicate_paragraph_chars),
    ):
        share, share_chars = repeated_shares(parts)
        if share > most or share_chars > most_chars:
            return False
    grams = NGrams(page.words)
    for n, most in enumerate(gopher.max_top_ngram_chars, 2):
        if grams.top_share(n) > most:
            return False
    return all(grams.repeated_share(n) <= most for n, most in enumerate(gopher.max_duplicate_ngram_chars, 5))


def repeated_shares(parts: Sequence[str]) -> tuple[float, float]:
    """The share of `parts` that repeat an earlier one, by number and by characters."""
    firsts = set(parts)
    num_chars = sum(map(len, parts))
    if not num_chars:
        return 0.0, 0.0
    return 1 - len(firsts) / len(parts), 1 - sum(map(len, firsts)) / num_chars


def _share(flags) -> float:
    values = list(flags)
    return sum(values) / max(len(values), 1)
