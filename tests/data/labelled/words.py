"""A small WordPiece tokenizer and rows of text over its words."""

import json
from pathlib import Path

WORDS = (
    "good",
    "bad",
    "film",
    "play",
    "the",
    "a",
    "was",
    "is",
    "very",
    "not",
    "boring",
    "lovely",
    "##ly",
    "##s",
    "##ing",
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_vocabulary(folder: Path) -> Path:
    """Writes BERT's vocab.txt, in a directory with what says that it is BERT's."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    pieces = dict.fromkeys((*SPECIAL, *letters, *WORDS))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    return folder
