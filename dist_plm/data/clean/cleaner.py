"""Cleaning: the rules by name, and their application in the order of the configuration.

A rule is a pure function of a document: it gives back the text, changed or not, or says whether to keep the document. A
document that a rule leaves without any text is dropped by it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from dist_plm.data.clean import c4, gopher, text_rules
from dist_plm.data.clean.page import Page
from dist_plm.spec.prepare.clean import CleanConfig, RuleName

Rule = Callable[[Page, CleanConfig], str | bool]

RULES: dict[RuleName, Rule] = {
    "repair": text_rules.repair,
    "nfc": text_rules.nfc,
    "nfkc": text_rules.nfkc,
    "control_characters": text_rules.control_characters,
    "white_space": text_rules.white_space,
    "boilerplate_lines": text_rules.boilerplate_lines,
    "length": text_rules.length,
    "language": text_rules.language,
    "mask_email": text_rules.mask_email,
    "mask_ip": text_rules.mask_ip,
    "gopher_word_count": gopher.word_count,
    "gopher_word_length": gopher.word_length,
    "gopher_symbols": gopher.symbols,
    "gopher_bullets": gopher.bullets,
    "gopher_ellipses": gopher.ellipses,
    "gopher_alphabetic": gopher.alphabetic,
    "gopher_stop_words": gopher.stop_words,
    "gopher_repetition": gopher.repetition,
    "c4_terminal_punctuation": c4.terminal_punctuation,
    "c4_short_lines": c4.short_lines,
    "c4_javascript": c4.javascript,
    "c4_policy": c4.policy,
    "c4_citations": c4.citations,
    "c4_lorem_ipsum": c4.lorem_ipsum,
    "c4_curly_bracket": c4.curly_bracket,
    "c4_few_sentences": c4.few_sentences,
    "c4_bad_words": c4.bad_words,
}


@dataclass(slots=True)
class RuleTally:
    """Documents that a rule dropped, their bytes as they came to it, and documents that it changed and left."""

    removed: int = 0
    removed_bytes: int = 0
    changed: int = 0


@dataclass(slots=True)
class Cleaner:
    """Applies the rules of `config`, and counts: `tallies` has one for each rule, in order."""

    config: CleanConfig
    tallies: list[RuleTally] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tallies = [RuleTally() for _ in self.config.rules]

    def clean(self, text: str) -> str | None:
        """The text as the rules leave it, or None where one of them drops the document."""
        page = Page(text)
        for name, tally in zip(self.config.rules, self.tallies, strict=True):
            result = RULES[name](page, self.config)
            if result is False or (isinstance(result, str) and not result.strip()):
                tally.removed += 1
                tally.removed_bytes += len(page.text.encode())
                return None
            if isinstance(result, str) and result != page.text:
                tally.changed += 1
                page = Page(result)
        return page.text
