"""Tokenizers: a thin, strict cover over Hugging Face `tokenizers`."""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import tokenizers as hf
from numpy.typing import NDArray
from tokenizers import models

from dist_plm.core.errors import DataError
from dist_plm.core.files import atomic_writer
from dist_plm.core.panics import panics_as
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.data.tokenizers.battery import check_ids
from dist_plm.data.tokenizers.fast_bpe import fast_bpe
from dist_plm.data.tokenizers.find_special_tokens import (
    declared_tokens,
    is_made_of_text,
    pieces_of_vocabulary,
    special_tokens_of,
    unknown_id,
)
from dist_plm.data.tokenizers.long_texts import Encoded, encode_long
from dist_plm.data.tokenizers.save import companions
from dist_plm.data.tokenizers.tokenizer_files import FILE_NAME, read_tokenizer
from dist_plm.spec.prepare.schema import DEFAULT_END

#: Before a piece: no text has this non-character of Unicode.
_OUT_OF_REACH = "\uffff"
#: Longer texts are encoded in pieces, and so many texts at a time that they have twice as many characters at most: the
#: encoder needs about a hundred bytes of memory a character.
MAX_PIECE_CHARS = 2**20
#: Making a faster encoder takes a tenth of a second.
_FAST_FROM_CHARS = 2**18


class Tokenizer:
    """Text to token ids and back.

    Text is only ever text: a special token written out in it is encoded as the characters it is made of, and no special
    tokens, truncation or padding are added, whatever the tokenizer's file asks for.

    Attributes:
        vocab_size: the largest token id + 1.
        end_of_document: the token that ends a document; `end_of_document_id` is its number.
    """

    def __init__(
        self,
        tokenizer: hf.Tokenizer,
        end_of_document: str | None,
        origin: str,
        declared: tuple[Mapping[str, str], Sequence[str]] = ({}, ()),
    ) -> None:
        """Without `end_of_document` it is `<|endoftext|>` where there is one, else what ends a text or a segment.

        `declared` is what `declared_tokens` found beside the tokenizer's file.

        Raises:
            DataError: there is no such token.
        """
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self._special = special_tokens_of(tokenizer, *declared, end_of_document)
        if end_of_document is None and (end_of_document := _end_of_document(tokenizer, self._special)):
            self._special = special_tokens_of(tokenizer, *declared, end_of_document)
        if end_of_document not in vocabulary:
            special = sorted(t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special)
            raise DataError(
                f"{origin} has no token {end_of_document or DEFAULT_END!r} to end documents with; its special tokens "
                f"are {', '.join(special) or 'none'}: name one in tokenizer.end_of_document"
            )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._origin, self._declared = origin, declared
        self._encoded_chars = 0
        self._marked: hf.Tokenizer | None = None
        self._fast: Callable[[Sequence[str]], list[list[int]]] | None = None
        pieces = {number: piece for piece, number in vocabulary.items()}
        self._encoder = _text_only(tokenizer, {pieces[i] for i in self._special.ids if i in pieces})
        self.vocab_size = max(vocabulary.values()) + 1
        self.end_of_document = end_of_document
        self.end_of_document_id = vocabulary[end_of_document]

    @classmethod
    def load(cls, path: str | Path, end_of_document: str | None = None, *, sentinels: int = 0) -> "Tokenizer":
        """Reads what `tokenizer_files.read_tokenizer` does, with what is declared in files beside it.

        Raises:
            DataError: there is no such file, it is not a tokenizer, or it lacks the token `end_of_document`.
        """
        read = read_tokenizer(path, sentinels)
        loaded = cls(read.tokenizer, end_of_document, str(path), declared_tokens(*read.declared))
        check_ids(read, loaded.encode_batch, str(path))
        return loaded

    def with_tokens(self, words: Sequence[str], special: Sequence[str]) -> "Tokenizer":
        """Gives the same tokenizer with more tokens behind those that it has: words, found in text as they are written, and
        special tokens, which text never holds. What it has already stays as it is.

        Raises:
            DataError: the library gives them other numbers than those behind, or text can become one of `special`.
        """
        self.refuse_text(special, "data.new_special_tokens")
        enlarged = hf.Tokenizer.from_str(self._tokenizer.to_str())
        known = enlarged.get_vocab(with_added_tokens=True)
        for names, add in ((words, enlarged.add_tokens), (special, enlarged.add_special_tokens)):
            add([hf.AddedToken(name, normalized=False) for name in names if name not in known])
        made = Tokenizer(enlarged, self.end_of_document, self._origin, self._declared)
        numbers = sorted(number for name, number in enlarged.get_vocab().items() if name not in known)
        if numbers != list(range(self.vocab_size, made.vocab_size)):
            raise DataError(f"{self._origin} leaves numbers out, so that it cannot be given more tokens: use another")
        return made

    def refuse_text(self, names: Iterable[str], key: str) -> None:
        """Refuses special tokens that text can become.

        Args:
            key: the setting that gives their names.
        Raises:
            DataError: it can become one of them.
        """
        for name in names:
            if is_made_of_text(self._tokenizer, name, self._special.ids):
                raise DataError(
                    f"{key}: text can become {name!r}, a piece of words in {self._origin}: take a special token of "
                    "more than one word, as <|user|> is"
                )

    def special_tokens(self) -> SpecialTokens:
        """Gives those of its tokens that mean something to an objective."""
        return self._special

    def unknown_id(self) -> int | None:
        """The token of text that is out of its reach; None where there is no such text."""
        return unknown_id(self._tokenizer)

    def pieces(self) -> list[str]:
        """The tokens as the vocabulary writes them, by number, [V]; "" where a number is not given away."""
        return pieces_of_vocabulary(self._tokenizer)

    def encode_batch(self, texts: Sequence[str]) -> Sequence[MutableSequence[int]]:
        """Token ids of each text: lists, or arrays where the texts are long together, which take a tenth of the memory."""
        if sum(map(len, texts)) <= 2 * MAX_PIECE_CHARS and all(len(text) <= MAX_PIECE_CHARS for text in texts):
            return self._encode(texts)
        return list(self._encode_in_runs(texts))

    def _encode_in_runs(self, texts: Sequence[str]) -> Iterator[array]:
        run: list[str] = []
        size = 0
        for text in texts:
            if len(text) > MAX_PIECE_CHARS or size + len(text) > 2 * MAX_PIECE_CHARS:
                yield from (array("i", ids) for ids in self._encode(run))
                run, size = [], 0
            if len(text) > MAX_PIECE_CHARS:
                yield encode_long(
                    text, lambda piece: self._encode([piece])[0], self._encode_with_places, MAX_PIECE_CHARS
                )
            else:
                run.append(text)
                size += len(text)
        yield from (array("i", ids) for ids in self._encode(run))

    def encode_with_offsets(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids of a text, [N], and where in it each begins and ends, in characters, [N, 2]."""
        with self._guarded():
            encoding = self._encoder.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.int32), offsets

    def _encode_with_places(self, text: str) -> Encoded:
        ids, offsets = self.encode_with_offsets(text)
        return ids, offsets[:, 0].copy()

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        self._encoded_chars += sum(map(len, texts))
        if self._encoded_chars > _FAST_FROM_CHARS and self._fast is None:
            self._fast = fast_bpe(self._encoder, self._encode_slowly, self._origin) or self._encode_slowly
        return (self._fast or self._encode_slowly)(texts)

    def _encode_slowly(self, texts: Sequence[str]) -> list[list[int]]:
        with self._guarded():
            return [encoding.ids for encoding in self._encoder.encode_batch_fast(texts, add_special_tokens=False)]

    def _guarded(self) -> AbstractContextManager[None]:
        return panics_as(DataError, f"{self._origin} is damaged: the library tokenizers gives up on a text")

    def encode_marked(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text in which special tokens that are written out stand for themselves, as Transformers reads text,
        and the characters, [begin, end), that each stands for."""
        encoding = self._encode_marked(text, framed=False)
        return encoding.ids, encoding.offsets

    def encode_as_transformers(self, text: str, *, framed: bool) -> list[int]:
        """Token ids of a text as Transformers reads it; `framed` adds the special tokens that the tokenizer's file says."""
        return self._encode_marked(text, framed=framed).ids

    def _encode_marked(self, text: str, *, framed: bool) -> hf.Encoding:
        if self._marked is None:  # what encodes text alone may be this very object
            self._marked = hf.Tokenizer.from_str(self._tokenizer.to_str())
        with self._guarded():
            return self._marked.encode(text, add_special_tokens=framed)

    def decode(self, ids: Sequence[int], *, keep_special: bool = True) -> str:
        """The text of token ids, special tokens written out, or left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=not keep_special)

    def save(self, path: str | Path) -> None:
        """Writes a tokenizer.json, atomically."""
        with atomic_writer(Path(path)) as file:
            file.write(self._tokenizer.to_str(pretty=True).encode())

    def companions(self) -> dict[str, bytes]:
        """Gives what stands beside tokenizer.json, by file name, for Transformers to read that as it is."""
        return companions(self._tokenizer, self._special, self.end_of_document)

    def save_directory(self, folder: Path) -> None:
        """Writes what Transformers' AutoTokenizer opens, tokenizer.json last.

        The other files are tokenizer_config.json and special_tokens_map.json, and the vocabulary in the form of the models that
        usually have it: vocab.txt, or vocab.json and merges.txt.
        """
        for name, content in self.companions().items():
            with atomic_writer(folder / name) as file:
                file.write(content)
        self.save(folder / FILE_NAME)


def _end_of_document(tokenizer: hf.Tokenizer, special: SpecialTokens) -> str | None:
    number = tokenizer.token_to_id(DEFAULT_END)
    for candidate in (number, special.eos, special.sep):
        if candidate is not None:
            return tokenizer.id_to_token(candidate)
    return None


def _text_only(tokenizer: hf.Tokenizer, special: set[str]) -> hf.Tokenizer:
    """A tokenizer with the same ids that never finds a special token written out in text.

    Looking past added tokens is not enough where the model matches whole strings: Unigram would find `</s>` among its
    pieces. There the names of special tokens are put out of reach.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    special |= {token.content for token in added if token.special}
    unmarked = [token for token in added if token.content in special and not token.special]
    if isinstance(tokenizer.model, models.BPE):
        if unmarked:
            tokenizer = hf.Tokenizer.from_str(tokenizer.to_str())
            for token in unmarked:
                token.special = True
            tokenizer.add_special_tokens(unmarked)
        tokenizer.encode_special_tokens = True
        return tokenizer
    state = json.loads(tokenizer.to_str())
    model = state["model"]

    def renamed(name: str) -> str:
        return _OUT_OF_REACH + name if name in special else name

    for token in state["added_tokens"]:
        token["content"] = renamed(token["content"])
    if isinstance(model["vocab"], list):
        model["vocab"] = [[renamed(piece), score] for piece, score in model["vocab"]]
    else:
        model["vocab"] = {renamed(piece): number for piece, number in model["vocab"].items()}
        model["unk_token"] = renamed(model["unk_token"])
    encoder = hf.Tokenizer.from_str(json.dumps(state | {"post_processor": None}))
    encoder.encode_special_tokens = True
    return encoder
