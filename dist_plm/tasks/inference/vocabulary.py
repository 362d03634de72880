"""Turns text into the tokens of a model and back, with its special tokens where a person wrote them."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.dialogues import template_beside
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.data.store.manifest import NAME as STORE_MANIFEST
from dist_plm.data.store.verify import tokenizer_of_store
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.tasks.inference.source import ModelSource


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Holds the tokenizer of a model.

    Args:
        beginning: the token before a text: that which ended the document before in training, or one of its own.
        begins_texts: whether prompts are expected to have it.
        ends: tokens that end a text.
        where: how messages call the tokenizer.
        template: by which it writes dialogues out, where it has one.
    """

    tokenizer: Tokenizer
    beginning: int
    begins_texts: bool
    ends: tuple[int, ...]
    where: str
    template: str | None = None

    @property
    def special(self) -> SpecialTokens:
        return self.tokenizer.special_tokens()

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text in which special tokens are text as well."""
        return [int(number) for number in self.tokenizer.encode_batch([text])[0]]

    def encode_marked(self, text: str, marks: Sequence[int]) -> list[int]:
        """Token numbers of a text in which those of `marks` that are written out stand for themselves."""
        pieces = self.tokenizer.pieces()
        named = {pieces[number]: number for number in marks}
        if not named:
            return self.encode(text)
        pattern = "|".join(re.escape(name) for name in sorted(named, key=len, reverse=True))
        numbers: list[int] = []
        for part in re.split(f"({pattern})", text):
            if part in named:
                numbers.append(named[part])
            elif part := self._beside_a_mark(part):
                numbers += self.encode(part)
        return numbers

    def _beside_a_mark(self, part: str) -> str:
        """Spaces before a mark are the mark's, as in RoBERTa; SentencePiece begins each part with one of its own."""
        style = self.special.pieces_style
        return part.strip(" ") if style == "unigram" else part.rstrip(" ") if style == "byte_level" else part

    def decode(self, numbers: Sequence[int]) -> str:
        """The text of tokens, special ones written out."""
        return self.tokenizer.decode(numbers)


def vocabulary_of_run(tokenizer: Tokenizer, where: str, template: str | None) -> Vocabulary:
    """Builds the vocabulary of a model that a run trains: documents follow the token that ends others."""
    end = tokenizer.end_of_document_id
    return Vocabulary(tokenizer, end, begins_texts=True, ends=(end,), where=where, template=template)


def vocabulary_of(source: ModelSource, given: str | None) -> Vocabulary:
    """Opens the tokenizer of a model.

    Args:
        given: a tokenizer's file or directory, or a store, in place of the model's own.
    Raises:
        DataError: there is none, it cannot be read, or it has more tokens than the model.
    """
    tokenizer, where, template = _opened(source, given)
    size = source.model.vocab_size
    if size is not None and tokenizer.vocab_size > size:
        raise DataError(
            f"{where} has {tokenizer.vocab_size:,} tokens, the model of {source.where} {size:,}: give the tokenizer that it "
            "was trained with, as in tokenizer=DIR"
        )
    end = tokenizer.end_of_document_id
    bos, eos = (source.settings.get(name) for name in ("bos_token_id", "eos_token_id"))
    ends = [end, *(eos if isinstance(eos, list) else [eos])]
    if source.model.has_decoder:
        ends.append(tokenizer.special_tokens().eos)
    own = isinstance(bos, int) and bos not in ends
    return Vocabulary(
        tokenizer,
        beginning=bos if isinstance(bos, int) else end,
        # A run's documents follow the end of another; models of others say so by a token for it.
        begins_texts=own or not source.settings,
        ends=tuple(dict.fromkeys(number for number in ends if isinstance(number, int))),
        where=where,
        template=template,
    )


def _opened(source: ModelSource, given: str | None) -> tuple[Tokenizer, str, str | None]:
    """The tokenizer, how messages call it, and its chat template."""
    if given is not None:
        return _of_path(given), given, template_beside(given)
    if files := source.weights.tokenizer():
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            try:
                return Tokenizer.load(folder), f"the tokenizer beside {source.where}", template_beside(folder)
            except DataError as error:
                reason = str(error).replace(f"{folder}/", "").replace(folder, "its directory")
                raise DataError(f"the tokenizer beside {source.where} cannot be used: {reason}") from None
    if source.tokenizer is not None:
        return _of_path(source.tokenizer), source.tokenizer, template_beside(source.tokenizer)
    if source.store is not None:
        return tokenizer_of_store(source.store), source.store, template_beside(source.store)
    gone = source.unset or "the store that its run read is not where it was"
    set_it = "set that, or " if source.unset else ""
    raise DataError(
        f"the tokenizer of {source.where} is not known: it has none beside it, and {gone}; {set_it}give one with "
        "tokenizer=DIR, a tokenizer's file or directory or a store"
    )


def _of_path(path: str) -> Tokenizer:
    return tokenizer_of_store(path) if (Path(path) / STORE_MANIFEST).is_file() else Tokenizer.load(path)
