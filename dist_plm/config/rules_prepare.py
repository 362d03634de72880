"""Does a run of prepare_data make sense?"""

from collections.abc import Callable, Iterator

from dist_plm.config.decode import show
from dist_plm.config.rules_training import no_effect, path_problems, split_problems
from dist_plm.config.schema_prepare import PrepareConfig

#: A byte-level BPE holds every byte, so that no text is out of its reach (Radford et al. 2019, section 2.2).
NUM_BYTES = 256
#: Settings of tokenizers -> the kinds that read them.
_READERS = {
    "vocab_size": ("bpe", "wordpiece"),
    "end_of_document": ("bpe", "file"),
    "lowercase": ("wordpiece",),
    "character_coverage": ("wordpiece",),
}


def _sources(config: PrepareConfig) -> Iterator[str]:
    if not config.data.sources:
        yield "data.sources is empty: give at least one, as in 'data.sources=[{path: texts/*.txt}]'"
    seen: set[tuple[str, str]] = set()
    for i, source in enumerate(config.data.sources):
        yield from path_problems(f"data.sources[{i}].path", source.path)
        if not source.text.strip():
            yield f"data.sources[{i}].text is empty: give the name of the JSONL field that holds the text"
        if (source.path, source.text) in seen:
            yield f"data.sources[{i}].path = {show(source.path)} is given twice: its documents would count double"
        seen.add((source.path, source.text))


def _output(config: PrepareConfig) -> Iterator[str]:
    yield from path_problems("data.out", config.data.out)
    yield from split_problems("data.split", config.data.split)


def _tokenizer(config: PrepareConfig) -> Iterator[str]:
    tokenizer = config.tokenizer
    if tokenizer.end_of_document is not None and not tokenizer.end_of_document:
        yield "tokenizer.end_of_document is empty: name the token that ends a document, as in <|endoftext|>, or null"
    yield from path_problems("tokenizer.path", tokenizer.path)
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
    if tokenizer.name == "bpe" and tokenizer.vocab_size <= NUM_BYTES:
        yield (
            f"tokenizer.vocab_size = {tokenizer.vocab_size} is too small: {NUM_BYTES} bytes and the end of document "
            f"need {NUM_BYTES + 1} at least"
        )


PREPARE_RULES: tuple[Callable[[PrepareConfig], Iterator[str]], ...] = (_sources, _output, _tokenizer)
