"""The files that published tokenizers come in, each read into a Hugging Face tokenizer."""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers

from dist_plm.core.errors import DataError, reason_of
from dist_plm.core.panics import panics_as, without_words_of_panics
from dist_plm.core.regular import read_regular
from dist_plm.data.tokenizers.battery import Read
from dist_plm.data.tokenizers.beside import ADDED, Beside
from dist_plm.data.tokenizers.find_special_tokens import COMPANIONS, FRAMING_NAMES, pieces_of_vocabulary, style_of
from dist_plm.data.tokenizers.from_transformers import load_with_transformers
from dist_plm.data.tokenizers.pipelines import (
    BERT_SPECIAL,
    ROBERTA_SPECIAL,
    end_as_t5,
    frame_as_roberta,
    special_token,
    wordpiece,
)
from dist_plm.data.tokenizers.sentencepiece import check_sentencepiece, from_sentencepiece, sentinels_of
from dist_plm.spec.prepare.rules import MAX_VOCAB_SIZE

FILE_NAME = "tokenizer.json"
#: What a directory is looked through for, in this order.
_IN_DIRECTORY = (FILE_NAME, "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
#: Models of fairseq, whose programs put `<s> <pad> </s> <unk>` before the pieces and so move all numbers: XLM-R, CamemBERT,
#: mBART, NLLB. Told by the name that their files have.
_RENUMBERED_NAME = "sentencepiece.bpe.model"
_NUM_BYTES = 256
_WRAPPED = re.compile(r"<.+>|\[.+\]")
KINDS = (
    "a tokenizer.json of Hugging Face tokenizers, a vocab.txt of BERT, a vocab.json with merges.txt of GPT-2 or RoBERTa, a "
    ".model of SentencePiece, or a directory with one of them"
)


def read_tokenizer(path: str | Path, sentinels: int = 0) -> Read:
    """The tokenizer in a file or directory; the kinds of file are told apart by their names and content.

    Where other files beside it change its ids, they are those that Transformers gives for the directory.

    Args:
        sentinels: added to a SentencePiece model that has T5's layout and none of its own, as T5's programs do.
    Raises:
        DataError: there is no such file, it is none of `KINDS`, it is damaged, or Transformers cannot read its directory.
    """
    main = main_file(Path(path))
    content, beside = _bytes(main), Beside.of(main)
    gives_up = f"{main} is damaged: the library tokenizers gives up on it"
    with panics_as(DataError, gives_up), without_words_of_panics():
        read = _read(main, content, beside, sentinels)
        _check_numbers(read.tokenizer, main, beside)
    return read


def _too_large(path: Path, piece: str, number: int) -> str:
    return f"{path} gives {piece!r} the number {number:,}: a vocabulary has 1 to {MAX_VOCAB_SIZE:,} tokens, so it is damaged"


def vocabulary_of(files: Mapping[str, bytes]) -> list[str] | None:
    """The pieces of the tokenizer in a directory's files, by number; None where there is none among them.

    Of a tokenizer whose ids cannot be given, the vocabulary may still be known.

    Raises:
        DataError: it is not.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        main = main_file(Path(folder))
        if not main.exists():
            return None
        try:
            return pieces_of_vocabulary(read_tokenizer(main).tokenizer)
        except DataError:
            if main.suffix == ".txt":
                return pieces_of_lines(_text(main, _bytes(main)))
            if main.name != "vocab.json":
                raise
            numbers = {number: piece for piece, number in _vocabulary(main, _text(main, _bytes(main))).items()}
            return [numbers.get(number, "") for number in range(max(numbers) + 1)]


def _read(main: Path, content: bytes, beside: Beside, sentinels: int) -> Read:
    if main.suffix == ".model":
        return _sentencepiece(main, content, beside, sentinels)
    text = _text(main, content)
    if main.suffix == ".txt":
        return _bert(main, text, beside)
    if main.name.endswith("vocab.json"):
        return _byte_level(main, text, beside)
    try:
        tokenizer = hf.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(
            f"{main} is not a tokenizer.json of Hugging Face tokenizers: {reason_of(error, main)}"
        ) from error
    return Read(tokenizer, beside.declared) if beside.agrees_with(tokenizer) else load_with_transformers(main, beside)


def _check_numbers(tokenizer: hf.Tokenizer, main: Path, beside: Beside) -> None:
    """The numbers of tokens make a vocabulary that a model can have, and are those that the files give."""
    numbers = tokenizer.get_vocab(with_added_tokens=True)
    piece, largest = max(numbers.items(), key=lambda item: item[1], default=("", -1))
    if not 0 <= largest < MAX_VOCAB_SIZE:
        raise DataError(_too_large(main, piece, largest))
    for place, name, number in beside.numbered():
        if numbers.get(name) != number:
            raise DataError(f"{main.with_name(place)} gives {name!r} a number that does not follow {main.name}'s")


def main_file(path: Path) -> Path:
    """The file that says what kind of tokenizer `path` is: the one in a directory, and vocab.json for its merges.txt."""
    if path.is_dir():
        found = next((path / name for name in _IN_DIRECTORY if (path / name).exists()), None)
        found = found or next(iter(sorted(path.glob("*.model"))), None)
        return found or path / FILE_NAME
    if path.name.endswith("merges.txt"):
        return path.with_name(path.name.removesuffix("merges.txt") + "vocab.json")
    return path


def fingerprint(path: str | Path) -> str:
    """The SHA-256 of all files that decide what is read from `path`; raises DataError where there are none."""
    main = main_file(Path(path))
    files = [main.with_name(name) for name in (*COMPANIONS, ADDED)]
    if main.name.endswith("vocab.json"):
        files.append(_merges_of(main))
    digests = [hashlib.sha256(_bytes(main)).hexdigest()]
    digests += [f"{file.name} {hashlib.sha256(_bytes(file)).hexdigest()}" for file in files if file.exists()]
    beside = Beside.of(main)
    if not (beside.is_empty or beside.is_harmless):
        digests.append(f"as Transformers reads it {beside.told()}")
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _sentencepiece(path: Path, content: bytes, beside: Beside, sentinels: int) -> Read:
    check_sentencepiece(content, str(path))
    if not beside.is_empty:
        return load_with_transformers(path, beside)
    if path.name == _RENUMBERED_NAME:
        raise DataError(
            f"{path} is a SentencePiece model as XLM-R, CamemBERT, mBART and NLLB have it, whose programs give the pieces "
            "other numbers than the file: put the tokenizer_config.json of that model beside it, or take its tokenizer.json; a "
            "model of your own that goes by the file's numbers needs another name"
        )
    tokenizer = from_sentencepiece(content, str(path))
    if tuple(map(tokenizer.id_to_token, range(3))) == ("<pad>", "</s>", "<unk>"):
        own = any(piece.strip("▁").startswith("<extra_id_") for piece in tokenizer.get_vocab())
        names = [] if own else sentinels_of(sentinels)
        tokenizer.add_special_tokens([special_token(name) for name in names])
        end_as_t5(tokenizer)
    return Read(tokenizer)


def _bert(path: Path, text: str, beside: Beside) -> Read:
    """Google's vocab.txt, a token a line. Where nothing says whether it is uncased, one that has no capitals is."""
    pieces = pieces_of_lines(text)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    if beside.tokenizer_class is None and (missing := [name for name in BERT_SPECIAL if name not in vocabulary]):
        raise DataError(f"{path} is not a vocab.txt of BERT, or it is truncated: it lacks {', '.join(missing)}")
    if "" in vocabulary:
        raise DataError(f"{path} is damaged: line {pieces.index('') + 1} is empty")
    if len(vocabulary) < len(pieces):
        twice = next(piece for number, piece in enumerate(pieces) if vocabulary[piece] != number)
        raise DataError(f"{path} is damaged: {twice!r} is in it more than once")
    lowercase = all(piece == piece.lower() for piece in pieces if not _WRAPPED.fullmatch(piece))
    if beside.is_empty:
        return Read(wordpiece(vocabulary, lowercase=lowercase))
    beside = beside.assuming("BertTokenizer", {"do_lower_case": lowercase})
    read = load_with_transformers(path, beside, vocabulary)
    added = {name for name, number in read.tokenizer.get_vocab().items() if number >= len(pieces)}
    if missing := sorted(added & FRAMING_NAMES):
        raise DataError(f"{path} lacks {', '.join(missing)}, which its class needs: is it truncated?")
    return read


def pieces_of_lines(text: str) -> list[str]:
    """The pieces of a vocab.txt, by number; a piece may be a line separator of Unicode, as in BERT's Chinese vocabulary."""
    return [piece.removesuffix("\r") for piece in text.removesuffix("\n").split("\n")]


def _byte_level(path: Path, text: str, beside: Beside) -> Read:
    """GPT-2's and RoBERTa's pair of files."""
    vocabulary = _vocabulary(path, text)
    merges_path = _merges_of(path)
    merges = _merges(merges_path, _text(merges_path, _bytes(merges_path)))
    if beside.tokenizer_class is not None:  # it may be another kind of BPE
        read = load_with_transformers(path, beside, merges=merges)
        if style_of(read.tokenizer) == "byte_level" and not read.tokenizer.model.end_of_word_suffix:
            _check_pair(path, vocabulary, merges_path, merges)
        return read
    special = _check_pair(path, vocabulary, merges_path, merges)
    frames = set(special) >= set(ROBERTA_SPECIAL)
    if not beside.is_empty:
        beside = beside.assuming("RobertaTokenizer" if frames else "GPT2Tokenizer", {})
        return load_with_transformers(path, beside, merges=merges)
    tokenizer = hf.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([special_token(name) for name in special])
    if frames:
        frame_as_roberta(tokenizer)
    return Read(tokenizer)


def _check_pair(
    path: Path, vocabulary: Mapping[str, int], merges_path: Path, merges: Sequence[tuple[str, str]]
) -> list[str]:
    """The special tokens of a pair of files that belong together: what no merge makes and no text can be."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    lacking = [character for character in alphabet if character not in vocabulary]
    if lacking:
        raise DataError(
            f"{path} is not a byte-level vocabulary, or it is truncated: it lacks {len(lacking)} of {_NUM_BYTES} bytes"
        )
    made = {left + right for left, right in merges}
    unknown = [piece for pair in merges for piece in (*pair, "".join(pair)) if piece not in vocabulary]
    if unknown:
        raise DataError(
            f"{merges_path} speaks of {unknown[0]!r}, which {path} does not have: one of them is truncated, or they do "
            "not belong together"
        )
    rest = [p for p in vocabulary if p not in made and not (len(p) == 1 and p in set(alphabet))]
    unmade = [piece for piece in rest if not _WRAPPED.fullmatch(piece) and not piece.startswith("madeupword")]
    if unmade:
        raise DataError(
            f"{merges_path} makes nothing of {len(unmade):,} pieces of {path}, {unmade[0]!r} for one: it is truncated, or "
            "they do not belong together"
        )
    return sorted(rest, key=lambda piece: vocabulary[piece])


def _vocabulary(path: Path, text: str) -> dict[str, int]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON, or it is truncated: {reason_of(error, path)}") from error
    numbers = list(content.values()) if isinstance(content, dict) else []
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise DataError(f"{path} is not a vocab.json: it does not map pieces to their numbers")
    if len(set(numbers)) < len(numbers):
        raise DataError(f"{path} is damaged: two pieces have the same number")
    if max(numbers) >= MAX_VOCAB_SIZE:
        piece = next(piece for piece, number in content.items() if number >= MAX_VOCAB_SIZE)
        raise DataError(_too_large(path, piece, content[piece]))
    return content


def _merges(path: Path, text: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.rstrip("\r").partition(" ")
        if not left or not right or " " in right:
            raise DataError(f"{path} is not a merges.txt, or it is truncated: line {number} is no pair of pieces")
        pairs.append((left, right))
    return pairs


def _merges_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix("vocab.json") + "merges.txt")


def _text(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not {KINDS}: it is not UTF-8 text (byte {error.start:,})") from error


def _bytes(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise DataError(f"cannot read the tokenizer {path}: {reason_of(error, path)}; give {KINDS}") from error
