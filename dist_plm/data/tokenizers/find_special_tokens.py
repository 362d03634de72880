"""Finds the tokens of a tokenizer that mean something to an objective: by their names, or declared in files beside it."""

import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import models, pre_tokenizers

from dist_plm.core.errors import DataError, reason_of
from dist_plm.core.parsing import load_json, read_text
from dist_plm.data.special_tokens import PiecesStyle, SpecialTokens

#: Names of special tokens in published vocabularies, the first that is there counts: BERT, ALBERT and XLNet, RoBERTa and
#: T5, GPT-2 and its kin; the three of fill-in-the-middle as in Bavarian et al. 2022, StarCoder, SantaCoder, Code Llama.
KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "bos": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|endoftext|>", "<|end_of_text|>"),
    "unk": ("[UNK]", "<unk>"),
    "fim_prefix": ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "▁<PRE>"),
    "fim_suffix": ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "▁<SUF>"),
    "fim_middle": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "▁<MID>"),
}
_FIM_NAMES = {name for role, known in KNOWN_NAMES.items() if role.startswith("fim_") for name in known}
#: Of the tokens that a class of Transformers needs for what it puts around texts.
FRAMING_NAMES = frozenset(name for role in ("cls", "sep", "mask", "pad", "unk") for name in KNOWN_NAMES[role])
_SENTINEL = re.compile(r"▁?<extra_id_(\d+)>")
_UNUSED = re.compile(r"\[unused\d+\]|<unused_?\d+>|madeupword\d+|<\|reserved_special_token_\d+\|>")
#: Files beside a tokenizer that say what its tokens are for.
COMPANIONS = ("special_tokens_map.json", "tokenizer_config.json")
_DECLARED = ("cls", "sep", "mask", "pad", "bos", "eos", "unk")


def special_tokens_of(
    tokenizer: hf.Tokenizer, declared: Mapping[str, str], others: Iterable[str], end_of_document: str | None = None
) -> SpecialTokens:
    """Finds a tokenizer's special tokens.

    A known name counts where the tokenizer marks it as special, or marks none at all, or could not have learnt it from
    text, as WordPiece could not: a byte-level vocabulary may well hold `</s>` as a piece of text. The tokens of
    fill-in-the-middle count where they are added to the vocabulary: Qwen's are not marked.

    Args:
        declared: role -> token, as `declared_tokens` reads them; they go before known names.
        others, end_of_document: further special tokens.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    size, style = max(vocabulary.values()) + 1, style_of(tokenizer)
    added = tokenizer.get_added_tokens_decoder().values()
    marked = {token.content for token in added if token.special}
    names = {name for known in KNOWN_NAMES.values() for name in known}
    candidates = marked if marked and style != "wordpiece" else marked | (names & vocabulary.keys())
    candidates |= {token.content for token in added} & _FIM_NAMES
    found: dict[str, Any] = {
        role: next((vocabulary[name] for name in known if name in candidates), None)
        for role, known in KNOWN_NAMES.items()
    }
    if found["cls"] is None and found["sep"] == vocabulary.get("</s>"):
        found["sep"] = None  # `</s>` of T5 ends texts and separates nothing
    found |= {role: vocabulary[token] for role, token in declared.items() if token in vocabulary}
    if found["bos"] in (found["eos"], vocabulary.get(end_of_document or "")):
        found["bos"] = None  # GPT-2's one token ends texts
    sentinels = {int(match[1]): i for name, i in vocabulary.items() if (match := _SENTINEL.fullmatch(name))}
    unused = {i for name, i in vocabulary.items() if _UNUSED.fullmatch(name)}
    holes = set(range(size)) - set(vocabulary.values())
    named = {name: vocabulary[name] for name in (*candidates, *others, end_of_document) if name in vocabulary}
    special = {*named.values(), *(i for i in found.values() if i is not None)}
    del found["unk"]  # no objective asks for it
    return SpecialTokens(
        vocab_size=size,
        ids=tuple(sorted(special | set(sentinels.values()) | unused | holes)),
        pieces_style=style,
        sentinels=tuple(sentinels[number] for number in sorted(sentinels)),
        named=named,
        **found,
    )


def is_reserved(name: str) -> bool:
    """Whether an added token is kept out of text here though it may not be marked as special."""
    return name in _FIM_NAMES or any(pattern.fullmatch(name) for pattern in (_SENTINEL, _UNUSED))


def is_made_of_text(tokenizer: hf.Tokenizer, name: str, special: Container[int]) -> bool:
    """Whether a token is one that ordinary text is made of, and not one that is only ever added to it.

    BPE gives a special token to text that comes to be its name by merges, or is one of its bytes.

    Args:
        special: the special tokens, which models other than BPE are kept from giving.
    """
    model = tokenizer.model
    if not isinstance(model, models.BPE):
        number = model.token_to_id(name)
        return number is not None and number not in special
    state = json.loads(model.__getstate__())
    if name not in state["vocab"]:
        return False
    if len(name) == 1:
        return style_of(tokenizer) != "byte_level" or name in pre_tokenizers.ByteLevel.alphabet()
    words = tokenizer.pre_tokenizer.pre_tokenize_str(name) if state["ignore_merges"] and tokenizer.pre_tokenizer else ()
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in state["merges"])
    prefix = state["continuing_subword_prefix"] or ""
    return [word for word, _ in words] == [name] or any(
        left + right.removeprefix(prefix) == name for left, right in pairs
    )


def style_of(tokenizer: hf.Tokenizer) -> PiecesStyle | None:
    """How the vocabulary writes word boundaries."""
    model = tokenizer.model
    if isinstance(model, models.WordPiece):
        return "wordpiece" if model.continuing_subword_prefix == "##" else None
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder)
    states = "".join(part.__getstate__().decode() for part in parts if part is not None)
    if '"ByteLevel"' in states:
        return "byte_level"
    if '"Metaspace"' in states or "▁" in states or "\\u2581" in states:
        return "unigram"
    return None


def unknown_id(tokenizer: hf.Tokenizer) -> int | None:
    """The number of the token that stands for text that is out of a vocabulary's reach; None where there is none."""
    model = tokenizer.model
    if isinstance(model, models.Unigram):
        return json.loads(model.__getstate__())["unk_id"]
    name = getattr(model, "unk_token", None)
    return None if name is None else tokenizer.token_to_id(name)


def pieces_of_vocabulary(tokenizer: hf.Tokenizer) -> list[str]:
    """The tokens as the vocabulary writes them, by number, [V]; "" where a number is not given away."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    pieces = [""] * (max(vocabulary.values()) + 1)
    for piece, number in vocabulary.items():
        pieces[number] = piece
    return pieces


def declared_tokens(*contents: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Reads what special_tokens_map.json and tokenizer_config.json say, the last one counts: role -> token, and further
    special tokens."""
    roles: dict[str, str] = {}
    others: list[str] = []
    for content in contents:
        named = {role: content_of(content.get(f"{role}_token")) for role in _DECLARED}
        roles |= {role: token for role, token in named.items() if token}
        for key in ("additional_special_tokens", "extra_special_tokens"):
            value = content.get(key) or ()
            listed: Sequence[Any] = tuple(value.values()) if isinstance(value, dict) else value
            listed = listed if isinstance(listed, list | tuple) else ()
            others += [token for token in map(content_of, listed) if token]
    return roles, tuple(dict.fromkeys(others))


def content_of(token: Any) -> str | None:
    """A token is written as a string, or as an object with `content`."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def read_json_object(path: Path) -> dict[str, Any]:
    """The content of a file beside a tokenizer's, {} where there is none; raises DataError where it is no JSON object."""
    try:
        content = load_json(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}, which belongs to the tokenizer beside it, cannot be read: {reason_of(error, path)}"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}, which belongs to the tokenizer beside it, is not a JSON object")
    return content
