"""Directories of Hugging Face with random weights, a tokenizer and some text, which all tests of inference open."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers as hf
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from dist_plm.config.decode import decode
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.tasks.inference.open_model import Session, find_model
from tests.ranks.pool import World
from tests.ranks.times import LONG
from tests.tasks.convert.hf_dirs import disturb

TEXTS = (
    "To be, or not to be, that is the question.\nWhether it is nobler in the mind to suffer",
    "The cat sat on the mat; the dog sat on the log, and nobody knew what the bird sat on at all. " * 3,
    "Ein kurzer Satz mit Umlauten: äöü ß.",
)
END, LENGTH, VOCAB = "<|endoftext|>", 32, 300
SMALL = {"layers": 4, "hidden": 32, "heads": 4}


def byte_level() -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 2, trainer)
    return tokenizer


def wordpiece() -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXTS * 2, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def byte_level_of_roberta() -> hf.Tokenizer:
    tokenizer = byte_level()
    # The mask takes the space before it, as that of the published ones.
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", hf.AddedToken("<mask>", lstrip=True, special=True)])
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False)
    return tokenizer


def unigram() -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in range(4))]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 2, trainer)
    return tokenizer


def _gpt2(size: int, end: int):
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=size, n_positions=LENGTH, n_embd=32, n_layer=4, n_head=4, bos_token_id=end, eos_token_id=end
        )
    )


def _llama(size: int, end: int):
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=end,
            eos_token_id=end,
        )
    )


def _bert(size: int, end: int):
    return transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=size,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=LENGTH,
        )
    )


def _roberta(size: int, end: int):
    return transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(
            vocab_size=size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=LENGTH + 2,
            type_vocab_size=1,
            pad_token_id=1,
        )
    )


def _electra(size: int, end: int):
    """The half that predicts tokens; the other stands beside it in `save`."""
    return transformers.ElectraForMaskedLM(_electra_sizes(size, heads=2, hidden=16))


def _electra_sizes(size: int, *, heads: int, hidden: int):
    return transformers.ElectraConfig(
        vocab_size=size,
        embedding_size=32,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=LENGTH,
    )


def _t5(size: int, end: int):
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=size,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=3,
            num_decoder_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


MODELS = {
    "gpt2": (_gpt2, byte_level),
    "llama": (_llama, byte_level),
    "bert": (_bert, wordpiece),
    "roberta": (_roberta, byte_level_of_roberta),
    "electra": (_electra, wordpiece),
    "t5": (_t5, unigram),
}


def save(name: str, directory: Path) -> Path:
    """The directory with the model of this name, its tokenizer, and the texts as text0.txt, text1.txt, …"""
    build, tokenize = MODELS[name]
    torch.manual_seed(11)
    tokenizer = tokenize()
    end = tokenizer.token_to_id(END) or 0
    model = build(tokenizer.get_vocab_size(), end)
    for _ in range(6):  # so that not all tokens are as likely
        disturb(model)
    if name == "electra":
        judge = transformers.ElectraForPreTraining(_electra_sizes(tokenizer.get_vocab_size(), heads=4, hidden=32))
        judge.electra.embeddings = model.electra.embeddings
        judge.save_pretrained(directory / "discriminator")
    model.save_pretrained(directory / "generator" if name == "electra" else directory)
    if name == "roberta":
        (directory / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "RobertaTokenizerFast", "mask_token": "<mask>"}'
        )
    tokenizer.save(str(directory / "tokenizer.json"))
    if name == "t5":  # whose own class adds a hundred sentinels
        (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    for number, text in enumerate(TEXTS):
        (directory / f"text{number}.txt").write_bytes(text.encode())
    return directory


def opened(world: World, config: Any) -> Session:
    """On a rank of the pool."""
    launch = LaunchEnv(rank=world.rank, world_size=world.size, local_rank=world.rank, local_world_size=world.size)
    return find_model(config, launch, world.device, LONG)


def evaluate_config(directory: Path, **settings: Any) -> EvaluateConfig:
    return decode(EvaluateConfig, {"from": str(directory), "cluster": {"device": "cpu"}, **settings})


def generate_config(directory: Path, **settings: Any) -> GenerateConfig:
    return decode(GenerateConfig, {"from": str(directory), "cluster": {"device": "cpu"}, **settings})


def small_bert(head: Any, directory: Path, names: Sequence[str], *, layers: int, positions: int) -> Any:
    """A model of a class with a head for labels of these names, over the vocabulary in a directory."""
    torch.manual_seed(3)
    return head(
        transformers.BertConfig(
            vocab_size=len((directory / "vocab.txt").read_text().split()),
            hidden_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=positions,
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
    )
