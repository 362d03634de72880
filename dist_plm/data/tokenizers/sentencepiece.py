"""SentencePiece models as Hugging Face tokenizers with the same token ids (Kudo and Richardson 2018)."""

import re
from collections.abc import Sequence
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers

from dist_plm.core.errors import DataError

SPACE = "▁"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_UNIGRAM, _BPE = 1, 2
_KINDS = {3: "word", 4: "char"}
#: A token in base 64 and its rank, line by line.
_TIKTOKEN = re.compile(rb"\s*[A-Za-z0-9+/]+={0,2} \d+\s*\r?\n")
_NEVER = -1e6  # the score of a piece that text never becomes


def sentinels_of(number: int) -> list[str]:
    """Lists the tokens of span corruption as T5 adds them to a vocabulary, the last first."""
    return [f"<extra_id_{i}>" for i in reversed(range(number))]


def from_sentencepiece(content: bytes, origin: str, others: Sequence[str] = ()) -> hf.Tokenizer:
    """The tokenizer of a SentencePiece model, Unigram or BPE.

    Its token ids are those of SentencePiece, with these exceptions. Where two ways to cut a text have equal scores either
    may be taken; SentencePiece adds scores in 32 bits over the whole text, so in a text as long as a book many are equal.
    An accent after a full-width letter is lost. What is written like a byte of byte fallback, `<0x41>`, is that byte to
    Unigram. A user-defined symbol of BPE takes no space before or after it.

    Args:
        content: of the `.model` file.
        origin: what messages call it.
        others: special tokens that are added after the vocabulary, as T5 does with its sentinels.
    Raises:
        DataError: it is no such model, or one whose ids this tokenizer would not give.
    """
    model = check_sentencepiece(content, origin)
    trainer, spec = model.trainer_spec, model.normalizer_spec
    if trainer.treat_whitespace_as_suffix:
        raise DataError(f"{origin} marks the ends of words (treat_whitespace_as_suffix), which is not supported")
    if not spec.escape_whitespaces:
        raise DataError(f"{origin} does not write spaces as {SPACE} (escape_whitespaces), which is not supported")
    tokenizer = hf.Tokenizer(_bpe(model) if trainer.model_type == _BPE else _unigram(model))
    tokenizer.normalizer = _normalizer(spec)
    if not any(SPACE in piece.piece[1:] for piece in model.pieces):  # else a piece may hold several words
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=True)
    tokenizer.decoder = _decoder(spec.add_dummy_prefix)
    special = [p.piece for p in model.pieces if p.type in (_CONTROL, _UNKNOWN)]
    special += others
    tokenizer.add_special_tokens([hf.AddedToken(name, special=True, normalized=False) for name in special])
    if trainer.model_type == _BPE:
        whole = [p.piece for p in model.pieces if p.type == _USER_DEFINED]
        tokenizer.add_tokens([hf.AddedToken(name, special=False, normalized=False) for name in whole])
    return tokenizer


def check_sentencepiece(content: bytes, origin: str) -> Any:
    """The model in a `.model` file; raises DataError where it is none, or of a kind that is not supported."""
    if _TIKTOKEN.match(content):
        raise DataError(
            f"{origin} is a file of tiktoken, which lacks the pattern that splits words and the special tokens: take the "
            "tokenizer.json of that model (Transformers' AutoTokenizer writes it with save_pretrained)"
        )
    # Imported here: most tokenizers are no such models, and commands that only look do without.
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2 as sentencepiece_proto

    model: Any = getattr(sentencepiece_proto, "ModelProto")()  # noqa: B009 - made at run time, unknown to type checkers
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise DataError(f"{origin} is not a SentencePiece model, or it is truncated: copy it again") from error
    if not model.pieces or not model.HasField("trainer_spec") or not model.HasField("normalizer_spec"):
        raise DataError(f"{origin} is not a whole SentencePiece model: it has no vocabulary or no specification")
    kind = model.trainer_spec.model_type
    if kind not in (_UNIGRAM, _BPE):
        name = _KINDS.get(kind, kind)
        raise DataError(f"{origin} is a SentencePiece model of type {name!r}; unigram and bpe are supported")
    return model


def _unigram(model: Any) -> models.Unigram:
    # Scores are 32-bit numbers: nine digits give them back, and JSON keeps nine digits exactly.
    scores = {p.piece: float(f"{p.score:.9g}") for p in model.pieces}
    best = max((scores[p.piece] for p in model.pieces if p.type == _NORMAL), default=0.0)

    def score(piece: Any) -> float:
        if piece.type == _USER_DEFINED:  # SentencePiece's own bonus (unigram_model.cc, EncodeOptimized)
            return len(piece.piece.encode()) * best - 0.1
        return _NEVER if piece.type in (_UNUSED, _BYTE) else scores[piece.piece]

    vocabulary = [(piece.piece, score(piece)) for piece in model.pieces]
    return models.Unigram(vocabulary, _unknown(model), model.trainer_spec.byte_fallback)


def _bpe(model: Any) -> models.BPE:
    """SentencePiece keeps no merges: a pair of pieces is merged where its joint piece is known, the best score first."""
    numbers = {p.piece: i for i, p in enumerate(model.pieces)}
    scores = {p.piece: p.score for p in model.pieces if p.type == _NORMAL}
    merges = [
        (-score, numbers[left], numbers[right], left, right)
        for piece, score in scores.items()
        for left, right in ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        if left in scores and right in scores
    ]
    return models.BPE(
        numbers,
        [(left, right) for *_, left, right in sorted(merges)],
        unk_token=model.pieces[_unknown(model)].piece,
        fuse_unk=True,
        byte_fallback=model.trainer_spec.byte_fallback,
    )


def _unknown(model: Any) -> int:
    return next(i for i, p in enumerate(model.pieces) if p.type == _UNKNOWN)


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(hf.Regex("^ +| +$"), ""), normalizers.Replace(hf.Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _decoder(prefixed: bool) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
