"""Settings of cleaning and of dropping duplicates in launch/prepare_data.py; see schema.py."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from dist_plm.config.bounds import Bounds, between
from dist_plm.config.types import Count, Fraction, Natural, NonNegative, Share

#: The rules there are; dist_plm/data/clean/cleaner.py says what each does.
RuleName = Literal[
    "repair",
    "nfc",
    "nfkc",
    "control_characters",
    "white_space",
    "boilerplate_lines",
    "length",
    "language",
    "mask_email",
    "mask_ip",
    "gopher_word_count",
    "gopher_word_length",
    "gopher_symbols",
    "gopher_bullets",
    "gopher_ellipses",
    "gopher_alphabetic",
    "gopher_stop_words",
    "gopher_repetition",
    "c4_terminal_punctuation",
    "c4_short_lines",
    "c4_javascript",
    "c4_policy",
    "c4_citations",
    "c4_lorem_ipsum",
    "c4_curly_bracket",
    "c4_few_sentences",
    "c4_bad_words",
]


_LID_176 = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de diq dsb dty
dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka
kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne
new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su sv sw ta te
tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh
"""
#: What the rule `language` tells apart: the labels of fastText's lid.176.
LANGUAGES = frozenset(_LID_176.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class GopherConfig:
    """Thresholds of the gopher_* rules, by default those of Rae et al. 2021 (arXiv 2112.11446), appendix A1.1."""

    min_words: Natural = 50
    max_words: Count = 100_000
    min_word_length: NonNegative = 3.0
    max_word_length: NonNegative = 10.0
    max_symbols: NonNegative = 0.1
    max_bullet_lines: Share = 0.9
    max_ellipsis_lines: Share = 0.3
    min_alphabetic_words: Share = 0.8
    min_stop_words: Natural = 2
    max_duplicate_lines: Share = 0.30
    max_duplicate_paragraphs: Share = 0.30
    max_duplicate_line_chars: Share = 0.20
    max_duplicate_paragraph_chars: Share = 0.20
    max_top_ngram_chars: tuple[Share, Share, Share] = (0.20, 0.18, 0.16)
    max_duplicate_ngram_chars: tuple[Share, Share, Share, Share, Share, Share] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)


@dataclass(frozen=True, slots=True, kw_only=True)
class C4Config:
    """Thresholds of the c4_* rules, by default those of Raffel et al. 2020 (arXiv 1910.10683), section 2.2.

    `bad_words` is a file of words, one a line, for c4_bad_words; the paper's list is not part of this program."""

    min_line_words: Natural = 5
    min_sentences: Natural = 3
    bad_words: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanConfig:
    """`rules` are applied to each document in their order.

    `length` keeps documents of `min_chars` to `max_chars` characters. `language` keeps those whose most probable language
    (ISO 639-1) is one of `languages` with a probability of at least `min_language_score`. `boilerplate_lines` removes lines
    in which one of the regular expressions `boilerplate` is found."""

    rules: tuple[RuleName, ...] = ()
    min_chars: Natural = 1
    max_chars: Count | None = None
    languages: tuple[str, ...] = ("en", "zh")
    min_language_score: Share = 0.65
    boilerplate: tuple[str, ...] = ()
    gopher: GopherConfig = field(default_factory=GopherConfig)
    c4: C4Config = field(default_factory=C4Config)


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupConfig:
    """Says what counts as said before, of which the first is kept.

    - `documents`: documents of equal text.
    - `paragraphs`: paragraphs (between blank lines) of equal text, of `min_paragraph_chars` characters or more, wherever
      they stand; shorter ones stay.
    - `near`: documents whose sets of shingles, runs of `shingle` words or Chinese characters, have a Jaccard similarity of
      about `threshold` or more, by MinHash of `permutations` values; pairs at the threshold are found with a probability
      of `recall` at least."""

    documents: bool = True
    paragraphs: bool = False
    min_paragraph_chars: Natural = 50
    near: bool = False
    threshold: Annotated[float, Bounds(low=0, high=1, low_open=True, high_open=True)] = 0.8
    permutations: Annotated[int, between(1, 4096)] = 128
    shingle: Annotated[int, between(1, 1000)] = 5
    recall: Fraction = 0.95
