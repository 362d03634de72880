"""Builds what published models put around their vocabularies: normalisation, words, and the special tokens they add."""

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


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


def frame_as_roberta(tokenizer: hf.Tokenizer) -> None:
    """Encoding for others than this program adds `<s>` and `</s>`."""
    vocabulary = tokenizer.get_vocab()
    end, begin = (("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]))
    tokenizer.post_processor = processors.RobertaProcessing(end, begin, add_prefix_space=False)


def end_as_t5(tokenizer: hf.Tokenizer) -> None:
    """Encoding for others than this program adds `</s>`."""
    special = [("</s>", tokenizer.get_vocab()["</s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=special
    )


def special_token(name: str) -> hf.AddedToken:
    """RoBERTa's mask swallows the space before it, for those who write masks into text."""
    return hf.AddedToken(name, lstrip=name == "<mask>", special=True, normalized=False)
