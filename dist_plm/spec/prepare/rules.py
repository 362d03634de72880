"""Checks the settings of launch/prepare_data.py."""

import re
from collections.abc import Callable, Iterator

from dist_plm.config.decode import show
from dist_plm.config.suggest import did_you_mean
from dist_plm.spec.prepare.clean import LANGUAGES
from dist_plm.spec.prepare.schema import (
    DEFAULT_END,
    FIM_SPECIAL,
    T5_SPECIAL,
    PrepareConfig,
    SourceConfig,
    TokenizerConfig,
    VerifyConfig,
)
from dist_plm.spec.prepare.template import parse_template
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.rules.sections import no_effect, repeated, split_problems

#: A byte-level BPE holds every byte, so that no text is out of its reach (Radford et al. 2019, section 2.2).
NUM_BYTES = 256
#: What a vocabulary of some tens of thousands of words takes.
LEAST_MEMORY_MB = 64
#: More than any model in use has (some 260,000), and so few that a number by mistake neither hangs nor aborts.
MAX_VOCAB_SIZE = 2**22
#: Below it more than a few characters are out of a vocabulary's reach.
LEAST_COVERAGE = 0.5
#: Settings of tokenizers -> the kinds that read them.
_READERS = {
    "vocab_size": ("bpe", "bpe_roberta", "wordpiece", "unigram"),
    "end_of_document": ("bpe", "file"),
    "lowercase": ("wordpiece",),
    "character_coverage": ("wordpiece", "unigram"),
    "sentinels": ("bpe", "unigram", "file"),
    "special": ("bpe", "unigram"),
    "fim": ("bpe",),
    "memory_mb": ("bpe", "bpe_roberta", "wordpiece", "unigram"),
    "max_unknown": ("wordpiece", "unigram", "file"),
}


#: What the pattern of a byte-level BPE leaves in one piece, which text may then become.
_ONE_WORD = re.compile(r"[A-Za-z]+|[0-9]+|[!-/:-@\[-`{-~]+")
_SENTINEL = re.compile(r"<extra_id_(0|[1-9][0-9]{,8})>")

#: Settings that belong to some kinds of sources alone.
_OF_HUB = ("name", "split", "revision", "streaming")


def _sources(config: PrepareConfig) -> Iterator[str]:
    if not config.data.sources:
        yield "data.sources is empty: give at least one, as in 'data.sources=[{path: texts/*.txt}]'"
    seen: set[tuple[str, ...]] = set()
    for i, source in enumerate(config.data.sources):
        key = f"data.sources[{i}]"
        kinds = [kind for kind in ("path", "hf", "python") if getattr(source, kind) is not None]
        if len(kinds) != 1:
            yield (
                f"{key} gives {' and '.join(kinds) or 'neither path, nor hf, nor python'}: say where the text comes "
                "from, with one of {path: FILES}, {hf: DATASET} and {python: MODULE:FUNCTION}"
            )
            continue
        yield from _source(source, key, kinds[0])
        place = (source.place, source.text, source.name or "", source.split)
        if place in seen:
            yield f"{key}.{kinds[0]} = {show(source.place)} is given twice: its documents would count double"
        seen.add(place)


def _source(source: SourceConfig, key: str, kind: str) -> Iterator[str]:
    yield from path_problems(f"{key}.{kind}", source.place)
    if kind != "path":
        yield from no_effect(source, key, ("format", "quoting"), f"{kind}, which brings rows")
    elif source.format not in (None, "csv", "tsv"):
        yield from no_effect(source, key, ("quoting",), f"{key}.format = {show(source.format)}")
    if kind != "hf":
        yield from no_effect(source, key, _OF_HUB, f"{kind}, which is no dataset of the Hub")
    if kind == "python" and not re.fullmatch(r"[\w.]+:\w+", source.place):
        yield f"{key}.python = {show(source.place)} is not of the form package.module:function"
    if not source.text.strip():
        yield f"{key}.text is empty: give the name of the column that holds the text"
        return
    try:
        parse_template(source.text)
    except ValueError as error:
        yield f'{key}.text = {show(source.text)} is no template ({error}): write it as in "{{title}}: {{body}}"'


def _output(config: PrepareConfig) -> Iterator[str]:
    yield from path_problems("data.out", config.data.out, made=True)
    yield from split_problems("data.split", config.data.split)


def _tokenizer(config: PrepareConfig) -> Iterator[str]:
    tokenizer = config.tokenizer
    if tokenizer.end_of_document is not None and not tokenizer.end_of_document:
        yield "tokenizer.end_of_document is empty: name the token that ends a document, as in <|endoftext|>, or null"
    yield from path_problems("tokenizer.path", tokenizer.path)
    if tokenizer.num_sentinels > MAX_VOCAB_SIZE:
        yield f"tokenizer.sentinels = {tokenizer.sentinels:,} is too large: a vocabulary has {MAX_VOCAB_SIZE:,} tokens at most"
    if len(set(tokenizer.special)) < len(tokenizer.special) or not all(tokenizer.special):
        yield f"tokenizer.special = {show(tokenizer.special)} names a token twice or has an empty one: name each once"
    unread = [field for field, names in _READERS.items() if tokenizer.name not in names]
    if tokenizer.name == "file":
        if tokenizer.path is None:
            yield "tokenizer.path is missing: tokenizer.name = 'file' loads a tokenizer, give tokenizer.path=…"
        yield from no_effect(tokenizer, "tokenizer", unread, "tokenizer.name = 'file', which brings its own")
        return
    if tokenizer.path is not None:
        yield (
            f"tokenizer.path = {show(tokenizer.path)} has no effect with tokenizer.name = {tokenizer.name!r}, which "
            "trains a new one: choose tokenizer=file to load it"
        )
    yield from no_effect(tokenizer, "tokenizer", unread, f"tokenizer.name = {tokenizer.name!r}")
    if tokenizer.memory_mb < LEAST_MEMORY_MB:
        yield f"tokenizer.memory_mb = {tokenizer.memory_mb} is too small to learn from: give {LEAST_MEMORY_MB} or more"
    if tokenizer.name in _READERS["character_coverage"] and tokenizer.character_coverage < LEAST_COVERAGE:
        yield (
            f"tokenizer.character_coverage = {tokenizer.character_coverage:g} leaves most characters unknown: give "
            f"{LEAST_COVERAGE:g} or more, as 0.9995 for Chinese and 1 for alphabets"
        )
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        yield (
            f"tokenizer.vocab_size = {tokenizer.vocab_size:,} is too large: a vocabulary has {MAX_VOCAB_SIZE:,} tokens at "
            "most, and those of models in use some 30,000 to 260,000"
        )
    yield from _special_tokens(tokenizer)
    needed = _least(tokenizer)
    if tokenizer.vocab_size < needed:
        yield (
            f"tokenizer.vocab_size = {tokenizer.vocab_size} is too small: what tokenizer.name = {tokenizer.name!r} has in "
            f"any case (special tokens, and the {NUM_BYTES} bytes of a byte-level BPE) needs {needed} at least"
        )


def _special_tokens(tokenizer: TokenizerConfig) -> Iterator[str]:
    if tokenizer.name not in _READERS["special"]:
        return
    is_bpe, end = tokenizer.name == "bpe", tokenizer.end_of_document or DEFAULT_END
    named = {"end_of_document": (end,) if is_bpe else (), "special": tokenizer.special}
    had = {*FIM_SPECIAL[: 3 * tokenizer.fim]} if is_bpe else {*T5_SPECIAL}
    for field, names in named.items():
        for name in dict.fromkeys(names):
            sentinel = _SENTINEL.fullmatch(name)
            if name in had or (sentinel and int(sentinel[1]) < tokenizer.num_sentinels):
                yield (
                    f"tokenizer.{field} names {show(name)}, which tokenizer.name = {tokenizer.name!r} has anyway: leave it out"
                )
            elif is_bpe and _ONE_WORD.fullmatch(name):
                yield (
                    f"tokenizer.{field}: text can become {show(name)}: take a special token of more than one word, as <|user|> "
                    "is"
                )
        had |= set(named["end_of_document"])


def _least(tokenizer: TokenizerConfig) -> int:
    """The tokens that do not depend on the text, and one that does where there are no bytes."""
    if tokenizer.name == "bpe":
        return NUM_BYTES + 1 + 3 * tokenizer.fim + tokenizer.num_sentinels + len(tokenizer.special)
    if tokenizer.name == "bpe_roberta":
        return NUM_BYTES + 5
    return 3 + tokenizer.num_sentinels + len(tokenizer.special) + 1 if tokenizer.name == "unigram" else 5 + 1


#: What alone reads a setting of `clean`, which is refused without it.
SETTINGS_OF_RULES = {"length": ("min_chars", "max_chars"), "language": ("languages", "min_language_score")}


def _clean(config: PrepareConfig) -> Iterator[str]:
    clean, rules = config.clean, config.clean.rules
    for name in sorted(repeated(rules)):
        yield f"clean.rules names {name} twice: once is enough"
    for name, pattern in enumerate(clean.boilerplate):
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:  # counts and depths beyond what `re` has
            yield f"clean.boilerplate[{name}] = {show(pattern)} is no regular expression: {error}"
    if "boilerplate_lines" in rules and not clean.boilerplate:
        yield "clean.rules names boilerplate_lines, but clean.boilerplate gives no expressions: give them, or drop the rule"
    if "c4_bad_words" in rules and clean.c4.bad_words is None:
        yield "clean.rules names c4_bad_words, but clean.c4.bad_words gives no file: name one with a word a line"
    if "language" in rules and not clean.languages:
        yield "clean.languages is empty: the rule language would drop everything; name languages, as in [en,zh]"
    if "language" in rules:
        for i, name in enumerate(clean.languages):
            yield from _language(f"clean.languages[{i}]", name)
    for rule, names in SETTINGS_OF_RULES.items():
        if rule not in rules:
            yield from no_effect(clean, "clean", names, f"clean.rules, which has no {rule}")
    if clean.max_chars is not None and clean.max_chars < clean.min_chars:
        yield f"clean.max_chars = {clean.max_chars} is below clean.min_chars = {clean.min_chars}: no text has such a length"


def _language(key: str, name: str) -> Iterator[str]:
    if name not in LANGUAGES:
        meant = [code for code in re.split("[-_]", name.lower().strip())[:1] if code in LANGUAGES]
        yield (
            f"{key} = {show(name)} is no language that the rule language tells apart: give codes of ISO 639-1, as en for "
            f"English, zh for Chinese, de for German{did_you_mean(meant)}"
        )


def verify_problems(config: VerifyConfig) -> Iterator[str]:
    return path_problems("verify", config.verify)


def _dedup(config: PrepareConfig) -> Iterator[str]:
    dedup = config.dedup
    if not dedup.near:
        names = ("threshold", "permutations", "shingle", "recall")
        yield from no_effect(
            dedup, "dedup", names, "dedup.near = false, which compares no documents (dedup=minhash does)"
        )
    if not dedup.paragraphs:
        yield from no_effect(dedup, "dedup", ("min_paragraph_chars",), "dedup.paragraphs = false")


PREPARE_RULES: tuple[Callable[[PrepareConfig], Iterator[str]], ...] = (_sources, _output, _clean, _dedup, _tokenizer)
