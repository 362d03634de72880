"""The files beside a tokenizer.json that make its directory one of Transformers'."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import models, normalizers, pre_tokenizers

from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.data.tokenizers.find_special_tokens import KNOWN_NAMES, pieces_of_vocabulary

#: Normalizer and pre-tokenizer of GPT-2 and RoBERTa, and those of BERT, uncased and cased.
_GPT2 = ((None, pre_tokenizers.ByteLevel(add_prefix_space=False).__getstate__()),)
_BERT = tuple(
    (normalizers.BertNormalizer(lowercase=lowercase).__getstate__(), pre_tokenizers.BertPreTokenizer().__getstate__())
    for lowercase in (True, False)
)
#: All that `companions` may name.
COMPANION_NAMES = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json", "vocab.txt")


def companions(tokenizer: hf.Tokenizer, special: SpecialTokens, end_of_document: str) -> dict[str, bytes]:
    """Name -> content of the files beside tokenizer.json."""
    named = _named(tokenizer, special, end_of_document)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **named,
    }
    if special.pieces_style == "wordpiece":
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        config["do_lower_case"] = bool(getattr(tokenizer.normalizer, "lowercase", False))
    files = {"tokenizer_config.json": _json(config), "special_tokens_map.json": _json(named)}
    return files | _vocabulary(tokenizer, special)


def _named(tokenizer: hf.Tokenizer, special: SpecialTokens, end_of_document: str) -> dict[str, Any]:
    """Transformers' names of special tokens -> tokens."""
    pieces = pieces_of_vocabulary(tokenizer)
    numbers = {role: getattr(special, role) for role in ("cls", "sep", "mask", "pad", "eos")}
    named: dict[str, Any] = {f"{role}_token": pieces[i] for role, i in numbers.items() if i is not None}
    if special.eos is None and named.get("sep_token") != end_of_document:
        named["eos_token"] = end_of_document
    reserved = set(special.ids)
    unknown = [name for name in KNOWN_NAMES["unk"] if tokenizer.token_to_id(name) in reserved]
    begins = [name for name in ("<s>", "<|endoftext|>", "<|begin_of_text|>") if tokenizer.token_to_id(name) in reserved]
    for role, names in (("unk_token", unknown), ("bos_token", begins)):
        if names:
            named[role] = names[0]
    others = [i for i in special.ids if pieces[i] and pieces[i] not in named.values()]
    added = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    others = [*special.sentinels, *(i for i in others if i in added and i not in special.sentinels)]
    if others:
        named["additional_special_tokens"] = [pieces[i] for i in others]
    return named


def _vocabulary(tokenizer: hf.Tokenizer, special: SpecialTokens) -> dict[str, bytes]:
    """vocab.txt of WordPiece, vocab.json and merges.txt of byte-level BPE, where older programs read the same out of them."""
    pieces = pieces_of_vocabulary(tokenizer)
    if special.pieces_style == "wordpiece":
        if not _is_plain(tokenizer, _BERT) or any(piece != piece.strip() or not piece for piece in pieces):
            return {}
        return {"vocab.txt": "".join(f"{piece}\n" for piece in pieces).encode()}
    if not isinstance(tokenizer.model, models.BPE) or not _is_plain(tokenizer, _GPT2):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.model.save(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _is_plain(tokenizer: hf.Tokenizer, usual: Sequence[tuple[bytes | None, bytes]]) -> bool:
    """Whether a text's way to words is one that goes without saying."""
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer)
    return tuple(None if part is None else part.__getstate__() for part in parts) in usual


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
