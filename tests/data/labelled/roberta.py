"""A byte-level tokenizer as RoBERTa's is, whose tokens are bytes."""

import json
from pathlib import Path

import transformers
from tokenizers.pre_tokenizers import ByteLevel

NAMES = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}


def write_byte_level(folder: Path) -> Path:
    """Writes tokenizer.json: special tokens, then a token for each byte."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    model = {"type": "BPE", "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": []}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": i, "content": pieces[i], "special": True, **flags} for i in range(5)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    frame = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True}
    content = {"version": "1.0", "added_tokens": added, "model": model, "pre_tokenizer": level, "decoder": level}
    content["post_processor"] = {**frame, "add_prefix_space": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def opened(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """The same tokenizer of Transformers."""
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **NAMES)
