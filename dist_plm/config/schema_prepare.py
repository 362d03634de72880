"""Every setting of launch/prepare_data.py, as frozen dataclasses; see schema.py."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.types import Count, Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """`bpe` trains a byte-level BPE as GPT-2's, `wordpiece` BERT's; `file` loads one from `path`.

    `end_of_document` is the token that ends a document; None takes the tokenizer's own: <|endoftext|> of GPT-2, [SEP] of
    BERT. Of `wordpiece` alone: `lowercase`, which drops accents too, and `character_coverage`, the share of the text's
    characters that the alphabet covers, the rarest becoming unknown."""

    name: Literal["bpe", "wordpiece", "file"]
    vocab_size: Count = 16384
    path: str | None = None
    end_of_document: str | None = None
    lowercase: bool = True
    character_coverage: Fraction = 0.99999


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Files by glob: .txt or .jsonl, each also .gz. `text` names the JSONL field.

    `document`: what makes one, the whole file or JSONL row, each block between blank lines, or each line. Documents
    above `max_chars` characters are cut at a blank line or, failing that, at a line's end; None leaves them whole."""

    path: str
    text: str = "text"
    document: Literal["whole", "block", "line"] = "whole"
    max_chars: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareDataConfig:
    """`split` assigns documents to train, validation and test by a hash of their text, so equal texts stay together."""

    sources: tuple[SourceConfig, ...]
    out: str
    workers: Count = 1
    split: tuple[float, float, float] = (0.96, 0.02, 0.02)
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """One run of prepare_data, whole."""

    data: PrepareDataConfig
    tokenizer: TokenizerConfig
