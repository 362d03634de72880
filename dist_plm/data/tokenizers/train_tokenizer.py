"""Learns tokenizers from text, with the special tokens of the objectives that are trained with them."""

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tokenizers as hf
from numpy.typing import NDArray
from sentencepiece import SentencePieceTrainer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from dist_plm.core.errors import DataError
from dist_plm.core.panics import panics_as
from dist_plm.data.tokenizers.long_texts import pieces_of
from dist_plm.data.tokenizers.pipelines import (
    BERT_SPECIAL,
    ROBERTA_SPECIAL,
    end_as_t5,
    frame_as_roberta,
    special_token,
    wordpiece,
)
from dist_plm.data.tokenizers.sentencepiece import from_sentencepiece, sentinels_of
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.spec.prepare.schema import DEFAULT_END, FIM_SPECIAL, T5_SPECIAL, TokenizerConfig

NUM_BYTES = 256
ORIGIN = "the trained tokenizer"
_LINE_CHARS = 1024
#: Sums are added up thread by thread: another number of them would give other last digits.
_SENTENCEPIECE_THREADS = 4
_NUM_CODE_POINTS = 0x110000


def train(config: TokenizerConfig, batches: Iterable[Sequence[str]]) -> Tokenizer:
    """Learns what `config` describes from batches of texts, which are gone through more than once.

    The same texts give the same tokenizer. It gets fewer tokens than `config.vocab_size` where the texts do not hold that
    many.

    Raises:
        DataError: `config.vocab_size` does not hold the tokens that have to be in it.
    """
    with panics_as(DataError, f"tokenizer.name = {config.name!r} cannot be learnt from this text"):
        return _train(config, batches)


def _train(config: TokenizerConfig, batches: Iterable[Sequence[str]]) -> Tokenizer:
    size, coverage = config.vocab_size, config.character_coverage
    if config.name == "wordpiece":
        return train_wordpiece(batches, size, lowercase=config.lowercase, character_coverage=coverage)
    if config.name == "unigram":
        return train_unigram(
            batches, size, sentinels=config.num_sentinels, character_coverage=coverage, others=config.special
        )
    if config.name == "bpe_roberta":
        return train_bpe_roberta(batches, size)
    assert config.name == "bpe", config.name
    others = (*(FIM_SPECIAL if config.fim else ()), *config.special, *sentinels_of(config.num_sentinels))
    return train_bpe(batches, size, config.end_of_document or DEFAULT_END, others)


def train_bpe(
    batches: Iterable[Sequence[str]], vocab_size: int, end_of_document: str, others: Sequence[str] = ()
) -> Tokenizer:
    """Learns a byte-level BPE with GPT-2's word pattern (Radford et al. 2019, section 2.2) from batches of texts.

    Its first tokens are `end_of_document` and the special tokens `others`.

    Raises:
        DataError: `vocab_size` does not hold the bytes and the special tokens.
    """
    return Tokenizer(_byte_level(batches, vocab_size, [end_of_document, *others]), end_of_document, ORIGIN)


def train_bpe_roberta(batches: Iterable[Sequence[str]], vocab_size: int) -> Tokenizer:
    """Learns the byte-level BPE of `train_bpe` with RoBERTa's special tokens first (Liu et al. 2019, section 4.4).

    They are `<s> <pad> </s> <unk> <mask>`, and `</s>` ends documents.
    """
    tokenizer = _byte_level(batches, vocab_size, ROBERTA_SPECIAL)
    frame_as_roberta(tokenizer)
    return Tokenizer(tokenizer, "</s>", ORIGIN)


def _byte_level(batches: Iterable[Sequence[str]], vocab_size: int, special: Sequence[str]) -> hf.Tokenizer:
    if vocab_size < NUM_BYTES + len(special):
        raise DataError(
            f"tokenizer.vocab_size = {vocab_size} is too small: {NUM_BYTES} bytes and {' '.join(special)} need "
            f"{NUM_BYTES + len(special)} at least"
        )
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[special_token(name) for name in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(batches, trainer)
    return tokenizer


def train_unigram(
    batches: Iterable[Sequence[str]],
    vocab_size: int,
    *,
    sentinels: int = 100,
    character_coverage: float = 1.0,
    others: Sequence[str] = (),
) -> Tokenizer:
    """Learns a Unigram vocabulary as T5's: SentencePiece with NFKC (Kudo 2018; Raffel et al. 2020, section 2.2).

    Its first tokens are `<pad> </s> <unk>`, its last the special tokens `others` and `<extra_id_99>` … `<extra_id_0>`;
    `</s>` ends documents.

    Args:
        vocab_size: of all tokens, the sentinels among them.
        sentinels: how many there are, as many as spans in a sample.
        character_coverage: share of the texts' characters that the vocabulary covers; the rarest become `<unk>`.
    Raises:
        DataError: `vocab_size` does not hold the special tokens and the alphabet, or there is hardly any text.
    """
    model, learnt = io.BytesIO(), vocab_size - sentinels - len(others)
    if learnt <= len(T5_SPECIAL):
        raise DataError(
            f"tokenizer.vocab_size = {vocab_size} is too small: {len(T5_SPECIAL) + len(others)} special tokens and {sentinels} "
            "sentinels leave nothing to learn"
        )
    pad, eos, unk = T5_SPECIAL
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(batches),
            model_writer=model,
            model_type="unigram",
            vocab_size=learnt,
            hard_vocab_limit=False,
            seed_sentencepiece_size=min(1_000_000, 20 * learnt),
            character_coverage=character_coverage,
            max_sentence_length=4 * _LINE_CHARS,
            num_threads=_SENTENCEPIECE_THREADS,
            minloglevel=2,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece=pad,
            eos_piece=eos,
            unk_piece=unk,
        )
    except RuntimeError as error:
        reason = str(error).partition("] ")[2] or str(error)  # its place in SentencePiece's source stands before
        raise DataError(
            f"SentencePiece could not learn tokenizer.vocab_size = {vocab_size} from this text, {sentinels} sentinels "
            f"among them: {reason.strip()} Raise tokenizer.vocab_size or lower tokenizer.character_coverage where the "
            "vocabulary is smaller than the required characters, and check that there is text"
        ) from error
    tokenizer = from_sentencepiece(model.getvalue(), ORIGIN, [*others, *sentinels_of(sentinels)])
    end_as_t5(tokenizer)
    return Tokenizer(tokenizer, eos, ORIGIN)


def _lines(batches: Iterable[Sequence[str]]) -> Iterator[str]:
    for batch in batches:
        for text in batch:
            for line in text.splitlines():
                if line.strip():
                    yield from pieces_of(line.replace("\0", ""), _LINE_CHARS)


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
