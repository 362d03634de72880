"""Tokenizers: a thin, strict cover over Hugging Face `tokenizers`."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers as hf

from dist_plm.data.files import atomic_writer
from dist_plm.data.roles import Roles, declared_roles, pieces_of_vocabulary, roles_of
from dist_plm.errors import DataError

FILE_NAME = "tokenizer.json"
DEFAULT_END = "<|endoftext|>"
#: Longer texts are encoded in pieces: the encoder needs about a hundred bytes of memory a character.
MAX_PIECE_CHARS = 2**20


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

        `declared` is what `declared_roles` found beside the tokenizer's file.

        Raises:
            DataError: there is no such token.
        """
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self._roles = roles_of(tokenizer, *declared, end_of_document)
        end_of_document = end_of_document or _end_of_document(tokenizer, self._roles)
        if end_of_document not in vocabulary:
            special = sorted(t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special)
            raise DataError(
                f"{origin} has no token {end_of_document or DEFAULT_END!r} to end documents with; its special tokens "
                f"are {', '.join(special) or 'none'}: name one in tokenizer.end_of_document"
            )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocab_size = max(vocabulary.values()) + 1
        self.end_of_document = end_of_document
        self.end_of_document_id = vocabulary[end_of_document]

    @classmethod
    def load(cls, path: str | Path, end_of_document: str | None = None) -> "Tokenizer":
        """Reads a tokenizer.json, or the one in a directory.

        Raises:
            DataError: there is no such file, it is not a tokenizer, or it lacks the token `end_of_document`.
        """
        content = _bytes(path)
        try:
            tokenizer = hf.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises nothing narrower
            raise DataError(f"{path} is not a tokenizer.json of Hugging Face tokenizers: {error}") from error
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        return cls(tokenizer, end_of_document, str(path), declared_roles(folder))

    def roles(self) -> Roles:
        """Which of its tokens mean what to an objective."""
        return self._roles

    def pieces(self) -> list[str]:
        """The tokens as the vocabulary writes them, by number, [V]; "" where a number is not given away."""
        return pieces_of_vocabulary(self._tokenizer)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        pieces = [pieces_of(text, MAX_PIECE_CHARS) for text in texts]
        flat = [piece for text in pieces for piece in text]
        ids = iter([encoding.ids for encoding in self._tokenizer.encode_batch_fast(flat, add_special_tokens=False)])
        return [next(ids) if len(text) == 1 else [i for _ in text for i in next(ids)] for text in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def save(self, path: str | Path) -> None:
        """Writes a tokenizer.json, atomically."""
        with atomic_writer(Path(path)) as file:
            file.write(self._tokenizer.to_str(pretty=True).encode())


def fingerprint(path: str | Path) -> str:
    """The SHA-256 of a tokenizer's file; raises DataError as `Tokenizer.load` does where there is none."""
    return hashlib.sha256(_bytes(path)).hexdigest()


def pieces_of(text: str, limit: int) -> list[str]:
    """`text` cut into pieces of at most `limit` characters, at the end of a line if possible, else of a word."""
    pieces, start = [], 0
    while len(text) - start > limit:
        stop = start + limit
        for boundary in ("\n", " "):
            # Where white space runs on, a cut inside it could change the tokens.
            at = text.rfind(boundary, start, stop)
            if at > start and not text[at - 1].isspace() and not text[at + 1].isspace():
                stop = at + 1 if boundary == "\n" else at
                break
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]


def _end_of_document(tokenizer: hf.Tokenizer, roles: Roles) -> str | None:
    number = tokenizer.token_to_id(DEFAULT_END)
    for candidate in (number, roles.eos, roles.sep):
        if candidate is not None:
            return tokenizer.id_to_token(candidate)
    return None


def _bytes(path: str | Path) -> bytes:
    path = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the tokenizer {path}: {error.strerror}") from error
