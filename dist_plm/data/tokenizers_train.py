"""Learns tokenizers from text, with the special tokens of the objectives that are trained with them."""

from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers as hf
from numpy.typing import NDArray
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from dist_plm.config.schema_prepare import TokenizerConfig
from dist_plm.data.tokenizers import DEFAULT_END, Tokenizer
from dist_plm.errors import DataError

NUM_BYTES = 256
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ORIGIN = "the trained tokenizer"
_NUM_CODE_POINTS = 0x110000


def train(config: TokenizerConfig, batches: Iterable[Sequence[str]]) -> Tokenizer:
    """Learns what `config` describes from batches of texts, which are gone through more than once.

    The same texts give the same tokenizer. It gets fewer tokens than `config.vocab_size` where the texts do not hold that
    many.

    Raises:
        DataError: `config.vocab_size` does not hold the tokens that have to be in it.
    """
    if config.name == "wordpiece":
        return train_wordpiece(
            batches, config.vocab_size, lowercase=config.lowercase, character_coverage=config.character_coverage
        )
    assert config.name == "bpe", config.name
    return train_bpe(batches, config.vocab_size, config.end_of_document or DEFAULT_END)


def train_bpe(batches: Iterable[Sequence[str]], vocab_size: int, end_of_document: str) -> Tokenizer:
    """Learns a byte-level BPE with GPT-2's word pattern (Radford et al. 2019, section 2.2) from batches of texts.

    Raises:
        DataError: `vocab_size` does not hold the bytes and the end of document.
    """
    if vocab_size <= NUM_BYTES:
        raise DataError(
            f"tokenizer.vocab_size = {vocab_size} is too small: {NUM_BYTES} bytes and the end of document need "
            f"{NUM_BYTES + 1} at least"
        )
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[end_of_document],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(batches, trainer)
    return Tokenizer(tokenizer, end_of_document, ORIGIN)


def train_wordpiece(
    batches: Iterable[Sequence[str]], vocab_size: int, *, lowercase: bool = True, character_coverage: float = 1.0
) -> Tokenizer:
    """Learns BERT's WordPiece: words split at punctuation and around Chinese characters, continuations written "##".

    Its first tokens are [PAD] [UNK] [CLS] [SEP] [MASK], and [SEP] ends documents (Devlin et al. 2019; normalisation and
    words are those of google-research/bert, tokenization.py).

    Args:
        batches: gone through twice.
        lowercase: also drops accents, as BERT's uncased models do.
        character_coverage: share of the texts' characters that the alphabet covers; the rarest become [UNK].
    Raises:
        DataError: `vocab_size` does not hold the special tokens and the alphabet.
    """
    tokenizer = hf.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = _wordpiece_alphabet(tokenizer, count_characters(batches), character_coverage)
    # The trainer would number "##c" in an order of chance, and break ties between merges by these numbers.
    known = [*BERT_SPECIAL, *alphabet, *(f"##{c}" for c in alphabet if _continues(tokenizer, c))]
    if vocab_size < len(known):
        raise DataError(
            f"tokenizer.vocab_size = {vocab_size} is too small: {len(BERT_SPECIAL)} special tokens and the text's "
            f"{len(alphabet):,} characters, at the beginning of words and in them, need {len(known):,}; raise it, or lower "
            "tokenizer.character_coverage"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=known,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(batches, trainer)
    return Tokenizer(wordpiece(tokenizer.get_vocab(), lowercase=lowercase), "[SEP]", ORIGIN)


def wordpiece(vocabulary: dict[str, int], *, lowercase: bool) -> hf.Tokenizer:
    """BERT's tokenizer with a given vocabulary, which has the five special tokens."""
    tokenizer = hf.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens([hf.AddedToken(name, special=True, normalized=False) for name in BERT_SPECIAL])
    return tokenizer


def count_characters(batches: Iterable[Sequence[str]]) -> dict[str, int]:
    """How often each character occurs, by code point."""
    counts = np.zeros(_NUM_CODE_POINTS, dtype=np.int64)
    for batch in batches:
        counts += _code_points("".join(batch))
    return {chr(point): int(counts[point]) for point in np.flatnonzero(counts)}


def _code_points(text: str) -> NDArray[np.int64]:
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return np.bincount(points, minlength=_NUM_CODE_POINTS)


def covering(counts: dict[str, int], coverage: float) -> list[str]:
    """The most frequent characters that make up the share `coverage` of all, sorted."""
    wanted, kept = coverage * sum(counts.values()), []
    for character in sorted(counts, key=lambda c: (-counts[c], c)):
        if wanted <= 0:
            break
        kept.append(character)
        wanted -= counts[character]
    return sorted(kept)


def _wordpiece_alphabet(tokenizer: hf.Tokenizer, counts: dict[str, int], coverage: float) -> list[str]:
    normalised: dict[str, int] = {}
    for character, count in counts.items():
        for c in tokenizer.normalizer.normalize_str(character):
            if not c.isspace():
                normalised[c] = normalised.get(c, 0) + count
    return covering(normalised, coverage)


def _continues(tokenizer: hf.Tokenizer, character: str) -> bool:
    """Whether a character can stand inside a word: punctuation and Chinese characters are words by themselves."""
    normalised = tokenizer.normalizer.normalize_str("a" + character)
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(normalised)) == 1
