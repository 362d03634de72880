"""The files that published tokenizers come in, each read into a Hugging Face tokenizer."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers

from dist_plm.core.errors import DataError
from dist_plm.core.regular import read_regular
from dist_plm.data.tokenizers.pipelines import (
    BERT_SPECIAL,
    ROBERTA_SPECIAL,
    end_as_t5,
    frame_as_roberta,
    special_token,
    wordpiece,
)
from dist_plm.data.tokenizers.sentencepiece import from_sentencepiece
from dist_plm.data.tokenizers.special_tokens import COMPANIONS, read_json_object

FILE_NAME = "tokenizer.json"
#: What a directory is looked through for, in this order.
_IN_DIRECTORY = (FILE_NAME, "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_ADDED = "added_tokens.json"
#: Models of fairseq, whose programs put `<s> <pad> </s> <unk>` before the pieces and so move all numbers: XLM-R, CamemBERT,
#: mBART, NLLB, XGLM. Told by the name that their files have, or by the class that tokenizer_config.json names.
_RENUMBERED_NAME = "sentencepiece.bpe.model"
_RENUMBERED_CLASS = re.compile(r"(XLMRoberta|Camembert|MBart|MBart50|Barthez|Nllb|XGLM)Tokenizer(Fast)?")
_NUM_BYTES = 256
_WRAPPED = re.compile(r"<.+>|\[.+\]")
KINDS = (
    "a tokenizer.json of Hugging Face tokenizers, a vocab.txt of BERT, a vocab.json with merges.txt of GPT-2 or RoBERTa, a "
    ".model of SentencePiece, or a directory with one of them"
)


def read_tokenizer(path: str | Path, sentinels: int = 0) -> hf.Tokenizer:
    """The tokenizer in a file or directory; the kinds of file are told apart by their names and content.

    Args:
        sentinels: added to a SentencePiece model that has T5's layout and none of its own, as T5's programs do.
    Raises:
        DataError: there is no such file, it is none of `KINDS`, or it is damaged.
    """
    main = main_file(Path(path))
    content = _bytes(main)
    if main.suffix == ".model":
        return _sentencepiece(main, content, sentinels)
    text = _text(main, content)
    if main.suffix == ".txt":
        return _bert(main, text)
    if main.name.endswith("vocab.json"):
        return _byte_level(main, text)
    try:
        return hf.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{main} is not a tokenizer.json of Hugging Face tokenizers: {error}") from error


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
    beside = [main.with_name(name) for name in (*COMPANIONS, _ADDED)]
    if main.name.endswith("vocab.json"):
        beside.append(_merges_of(main))
    digests = [hashlib.sha256(_bytes(main)).hexdigest()]
    digests += [f"{file.name} {hashlib.sha256(_bytes(file)).hexdigest()}" for file in beside if file.exists()]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _sentencepiece(path: Path, content: bytes, sentinels: int) -> hf.Tokenizer:
    named = str(read_json_object(path.with_name("tokenizer_config.json")).get("tokenizer_class"))
    if path.name == _RENUMBERED_NAME or _RENUMBERED_CLASS.fullmatch(named):
        raise DataError(
            f"{path} is a SentencePiece model as XLM-R, CamemBERT, mBART and NLLB have it, whose programs give the pieces "
            "other numbers than the file: take the tokenizer.json of that model (Transformers' AutoTokenizer writes it "
            "with save_pretrained); a model of your own that goes by the file's numbers needs another name"
        )
    tokenizer = from_sentencepiece(content, str(path))
    if tuple(map(tokenizer.id_to_token, range(3))) == ("<pad>", "</s>", "<unk>"):
        own = any(piece.strip("▁").startswith("<extra_id_") for piece in tokenizer.get_vocab())
        names = [] if own else [f"<extra_id_{i}>" for i in reversed(range(sentinels))]
        tokenizer.add_special_tokens([special_token(name) for name in names])
        end_as_t5(tokenizer)
    return tokenizer


def _bert(path: Path, text: str) -> hf.Tokenizer:
    """Google's vocab.txt, a token a line. Without a tokenizer_config.json, one that has no capitals is uncased."""
    pieces = text.removesuffix("\n").split("\n")
    pieces = [piece.removesuffix("\r") for piece in pieces]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    missing = [name for name in BERT_SPECIAL if name not in vocabulary]
    if missing:
        raise DataError(f"{path} is not a vocab.txt of BERT, or it is truncated: it lacks {', '.join(missing)}")
    if "" in vocabulary:
        raise DataError(f"{path} is damaged: line {pieces.index('') + 1} is empty")
    if len(vocabulary) < len(pieces):
        twice = next(piece for number, piece in enumerate(pieces) if vocabulary[piece] != number)
        raise DataError(f"{path} is damaged: {twice!r} is in it more than once")
    config = read_json_object(path.with_name("tokenizer_config.json"))
    capitals = any(piece != piece.lower() for piece in pieces if not _WRAPPED.fullmatch(piece))
    lowercase = config.get("do_lower_case", not capitals)
    return wordpiece(vocabulary, lowercase=bool(lowercase))


def _byte_level(path: Path, text: str) -> hf.Tokenizer:
    """GPT-2's and RoBERTa's pair of files."""
    vocabulary = _vocabulary(path, text)
    merges_path = _merges_of(path)
    merges = _merges(merges_path, _text(merges_path, _bytes(merges_path)))
    special = _check_pair(path, vocabulary, merges_path, merges)
    tokenizer = hf.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([special_token(name) for name in special])
    added = read_json_object(path.with_name(_ADDED))
    tokenizer.add_special_tokens([special_token(name) for name in sorted(added, key=lambda name: added[name])])
    moved = [name for name, number in added.items() if tokenizer.token_to_id(name) != number]
    if moved:
        raise DataError(f"{path.with_name(_ADDED)} gives {moved[0]!r} a number that does not follow {path.name}'s")
    if set(special) >= set(ROBERTA_SPECIAL):
        frame_as_roberta(tokenizer)
    return tokenizer


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
    except ValueError as error:
        raise DataError(f"{path} is not JSON, or it is truncated: {error}") from error
    numbers = list(content.values()) if isinstance(content, dict) else []
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise DataError(f"{path} is not a vocab.json: it does not map pieces to their numbers")
    if len(set(numbers)) < len(numbers):
        raise DataError(f"{path} is damaged: two pieces have the same number")
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
        raise DataError(f"cannot read the tokenizer {path}: {error.strerror}; give {KINDS}") from error
