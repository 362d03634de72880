"""Every setting of launch/prepare_data.py, as frozen dataclasses; see schema.py."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from dist_plm.config.bounds import between
from dist_plm.config.types import Count, Fraction, Natural, Positive, Share
from dist_plm.spec.prepare.clean import CleanConfig, DedupConfig

#: Ends documents where a tokenizer has it and no other is named.
DEFAULT_END = "<|endoftext|>"
T5_SPECIAL = ("<pad>", "</s>", "<unk>")
#: Of fill-in-the-middle (Bavarian et al. 2022), as Qwen and others write them.
FIM_SPECIAL = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """`bpe` trains a byte-level BPE as GPT-2's, `bpe_roberta` one with RoBERTa's special tokens, `wordpiece` BERT's,
    `unigram` T5's; `file` loads one from `path`.

    `end_of_document` is the token that ends a document; None takes the tokenizer's own: <|endoftext|> of GPT-2, </s> of
    RoBERTa and T5, [SEP] of BERT. `fim` adds the tokens of fill-in-the-middle to `bpe`, `sentinels` those of span
    corruption to `unigram` (None: 100) and `bpe` (None: none), `special` to both any others, which text never becomes.
    `lowercase` (of `wordpiece`) drops accents too. `character_coverage` (of `wordpiece` and `unigram`) is the share of the
    text's characters in the alphabet; the rarest become unknown. Training takes about `memory_mb` megabytes at most: of a
    corpus with more words it sees an even sample. Text of which more than the share `max_unknown` of tokens is unknown to
    the tokenizer is refused."""

    name: Literal["bpe", "bpe_roberta", "wordpiece", "unigram", "file"]
    vocab_size: Count = 16384
    path: str | None = None
    end_of_document: str | None = None
    lowercase: bool = True
    character_coverage: Fraction = 0.99999
    sentinels: Natural | None = None
    special: tuple[str, ...] = ()
    fim: bool = False
    memory_mb: Count = 600
    max_unknown: Share = 0.1

    @property
    def num_sentinels(self) -> int:
        """The tokens of span corruption."""
        usual = 100 if self.name in ("unigram", "file") else 0
        return usual if self.sentinels is None else self.sentinels


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Documents from one of three places.

    - `path`: files by glob. The suffix tells the `format`: .txt text, .jsonl, .csv, .tsv, .parquet, .arrow or
      .feather; text, JSONL and CSV also .gz or .zst.
    - `hf`: a dataset's name on the Hugging Face Hub or its local directory, opened by `datasets`: its `split`, its
      configuration `name`, at `revision`. `streaming` reads it over the network instead of downloading it first.
    - `python`: "package.module:function", called without arguments; gives texts or rows. It must give the same each time.

    `text` names the column of a row that holds the text, or is a template over columns such as "{title}\\n\\n{body}"; with
    "{title?}" rows without a title are taken too, without what stands before it or, at the beginning, behind it. `meta.text`
    is the field `text` of what is in the column `meta`.
    `quoting` says what quotes are in CSV and TSV: `minimal` (they hold fields together, doubled inside: RFC 4180), `none`
    (text), `backslash` (as minimal, but those inside behind a backslash); `auto` looks at each file.
    `document`: what makes one, the whole file or row, each block between blank lines, or each line. Documents above
    `max_chars` characters are cut at a blank line or, failing that, at a line's end; None leaves them whole."""

    path: str | None = None
    hf: str | None = None
    python: str | None = None
    format: Literal["text", "jsonl", "csv", "tsv", "parquet", "arrow"] | None = None
    text: str = "text"
    quoting: Literal["auto", "none", "minimal", "backslash"] = "auto"
    document: Literal["whole", "block", "line"] = "whole"
    max_chars: Count | None = None
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = False

    @property
    def place(self) -> str:
        """How messages call it."""
        return self.path or self.hf or self.python or "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareDataConfig:
    """`split` assigns documents to train, validation and test by a hash of their text, so equal texts stay together.

    With `sentences` documents are stored sentence by sentence, without an end of document, as objectives of segment pairs
    need them (mlm_nsp, mlm_sop); English and Chinese.

    Above the share `max_rejected` of broken records the run is refused. Under torchrun and srun each rank runs `workers`
    processes, and waits for a rank that shows no sign of life for `rank_timeout_seconds`."""

    sources: tuple[SourceConfig, ...]
    out: str
    workers: Annotated[int, between(1, 1024)] = 1
    split: tuple[float, float, float] = (0.96, 0.02, 0.02)
    sentences: bool = False
    max_rejected: Share = 0.001
    rank_timeout_seconds: Positive = 600.0
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """One run of prepare_data, whole."""

    data: PrepareDataConfig
    tokenizer: TokenizerConfig
    clean: CleanConfig = field(default_factory=CleanConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """prepare_data's other command: compares every file of the store `verify` with its hash."""

    verify: str
