"""Every setting of launch/prepare_data.py, as frozen dataclasses; see schema.py."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.types import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """`bpe` trains a byte-level BPE of `vocab_size`; `file` loads a tokenizer.json from `path`."""

    name: Literal["bpe", "file"]
    vocab_size: Count = 16384
    path: str | None = None
    end_of_document: str = "<|endoftext|>"


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
