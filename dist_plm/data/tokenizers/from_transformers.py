"""Tokenizers as Transformers reads their directory: the one door to that library, which is imported when it is needed."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers as hf

from dist_plm.core.errors import DataError, reason_of
from dist_plm.core.panics import is_panic
from dist_plm.data.tokenizers.battery import Read, texts_for
from dist_plm.data.tokenizers.beside import ADDED, GENERIC, MODEL, Beside
from dist_plm.data.tokenizers.find_special_tokens import COMPANIONS

#: Names under which classes of Transformers look for a SentencePiece model.
_SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model")
_CONFIG = "tokenizer_config.json"


def load_with_transformers(
    main: Path, beside: Beside, vocabulary: Mapping[str, int] | None = None, merges: Sequence[tuple[str, str]] = ()
) -> Read:
    """The tokenizer that AutoTokenizer makes of a directory, if its core is one of Hugging Face `tokenizers`, and ids that it
    gives.

    Args:
        main: holds the vocabulary.
        vocabulary: of a vocab.txt, whose lines Transformers would trim.
        merges: of a merges.txt beside a vocab.json.
    Raises:
        DataError: Transformers cannot read it, or splits text in another way.
    """
    theirs = _opened(main, beside, vocabulary, merges)
    if type(theirs).__name__ in GENERIC and main.suffix not in (".json", ".model"):
        raise DataError(
            f"{main}: Transformers has no tokenizer {beside.tokenizer_class} that reads it; take a tokenizer.json"
        )
    tokenizer = getattr(theirs, "backend_tokenizer", None)
    if not isinstance(tokenizer, hf.Tokenizer):
        raise DataError(
            f"{main} belongs to a tokenizer of the class {type(theirs).__name__}, which splits text by a program of its own "
            "instead of the library tokenizers: its ids cannot be given here; take a tokenizer.json, if that model has one"
        )
    try:
        expected = {text: theirs.encode(text, add_special_tokens=False) for text in texts_for(tokenizer)}
    except Exception as error:  # whatever the class does to a text
        raise DataError(
            f"{main} is damaged, or not of its class {type(theirs).__name__}: {reason_of(error, main)}"
        ) from error
    return Read(tokenizer, [_special_tokens(theirs)], expected)


def _special_tokens(theirs: Any) -> dict[str, Any]:
    """Those of the settings and of the class, all of them as strings."""
    named = theirs.special_tokens_map
    return {role: list(map(str, token)) if isinstance(token, list) else str(token) for role, token in named.items()}


def _opened(main: Path, beside: Beside, vocabulary: Mapping[str, int] | None, merges: Sequence[tuple[str, str]]) -> Any:
    named = f" of the class {beside.tokenizer_class}" if beside.tokenizer_class else ""
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            from transformers import AutoTokenizer

            _stage(Path(folder), main, beside, merges)
            given = {} if vocabulary is None else {"vocab": dict(vocabulary)}
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **given)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        reason = reason_of(error)
        raise DataError(
            f"{main} belongs to a tokenizer{named} with files beside it, and Transformers cannot open it: {reason}; mend or "
            f"remove what is wrong in {_CONFIG} and its like, or take a tokenizer.json"
        ) from error


def _stage(folder: Path, main: Path, beside: Beside, merges: Sequence[tuple[str, str]]) -> None:
    """A directory with nothing but what decides ids: no code, no templates, no other tokenizer."""
    config = {
        key: value for key, value in beside.config.items() if not key.endswith("_file") and key != "chat_template"
    }
    contents = dict(zip((*COMPANIONS, ADDED, MODEL), (beside.named, config, beside.added, beside.model), strict=True))
    for name, content in contents.items():
        if content:
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    for name in _SENTENCEPIECE if main.suffix == ".model" else (_usual_name(main),):
        (folder / name).symlink_to(main.resolve())
    if merges:
        lines = "".join(f"{left} {right}\n" for left, right in merges)
        (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", encoding="utf-8")


def _usual_name(main: Path) -> str:
    """Transformers knows files by their names: `bert-vocab.txt` by none."""
    if main.suffix == ".txt":
        return "vocab.txt"
    return "vocab.json" if main.name.endswith("vocab.json") else "tokenizer.json"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Transformers' warnings of what is of no use here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
