"""Translates BERT, and what other encoders of Hugging Face share with it."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from dist_plm.interop.hf.base import (
    ACTIVATION_NAMES,
    ACTIVATIONS,
    HEADS,
    Half,
    HFModel,
    HFTensor,
    Settings,
    affine,
    count_layers,
)
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.families.base import Head
from dist_plm.spec.families.bert import BertConfig

if TYPE_CHECKING:
    from dist_plm.interop.hf.checkpoint_tokenizer import CheckpointTokenizer


#: Begin Hugging Face's names of the heads of tasks.
TASK_NAMES = ("classifier.", "qa_outputs.", "sequence_summary.")


def task_classes_of(kind: str) -> dict[str, Head]:
    """Names the classes of a kind of encoder that have the head of a task."""
    return {
        f"{kind}ForSequenceClassification": "sequence",
        f"{kind}ForTokenClassification": "tokens",
        f"{kind}ForQuestionAnswering": "span",
        f"{kind}ForMultipleChoice": "choice",
    }


class HFEncoder(HFModel):
    """Holds what the encoders have in common: sizes, embeddings and layers."""

    def read_sizes(self, s: Settings) -> dict[str, Any]:
        s.must_be("position_embedding_type", "absolute")
        s.must_be("is_decoder", False)
        s.must_be("add_cross_attention", False)
        hidden, heads = s["hidden_size"], s["num_attention_heads"]
        return {
            "family": self.family,
            "layers": s["num_hidden_layers"],
            "hidden": hidden,
            "heads": heads,
            "kv_heads": heads,
            "head_size": hidden // heads,
            "ffn": s["intermediate_size"],
            "vocab_size": s["vocab_size"],
            "max_positions": s["max_position_embeddings"],
            "segments": s.get("type_vocab_size", 2),
            "embedding_size": hidden,
            "activation": s.one_of("hidden_act", ACTIVATIONS, "gelu"),
            "norm_placement": "post",
            "norm_eps": s.get("layer_norm_eps", 1e-12),
            "hidden_dropout": s.get("hidden_dropout_prob", 0.1),
            "attention_dropout": s.get("attention_probs_dropout_prob", 0.1),
            "classifier_dropout": s.get("classifier_dropout", None),
            "init_std": s.get("initializer_range", 0.02),
        }

    def write_settings(self, model: ModelConfig) -> dict[str, Any]:
        return {
            "model_type": self.model_type,
            "vocab_size": model.vocab_size,
            "hidden_size": model.hidden,
            "num_hidden_layers": model.layers,
            "num_attention_heads": model.heads,
            "intermediate_size": model.ffn,
            "hidden_act": ACTIVATION_NAMES.get(model.activation, "gelu"),
            "hidden_dropout_prob": model.hidden_dropout,
            "attention_probs_dropout_prob": model.attention_dropout,
            "max_position_embeddings": model.max_positions,
            "type_vocab_size": max(model.segments, 1),
            "initializer_range": model.init_std,
            "layer_norm_eps": model.norm_eps,
            "classifier_dropout": getattr(model, "classifier_dropout", None),
        }

    def sizes_from_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        assert self.word is not None
        size = shapes[self.word][1]
        return {
            "layers": count_layers(shapes, f"{self.prefix}encoder.layer"),
            "hidden": size,
            "embedding_size": size,
            "heads": 1,
            "segments": shapes.get(f"{self.prefix}embeddings.token_type_embeddings.weight", (0,))[0],
        }

    def token_numbers(self, tokens: "CheckpointTokenizer") -> dict[str, int | None]:
        pad = None if tokens.special is None else tokens.special.pad
        return {"pad_token_id": pad or 0}

    def embeddings(self, model: ModelConfig) -> Iterator[HFTensor]:
        hf = f"{self.prefix}embeddings"
        yield HFTensor("embedding.word.weight", f"{hf}.word_embeddings.weight")
        yield HFTensor("embedding.position.weight", f"{hf}.position_embeddings.weight")
        if model.segments:
            yield HFTensor("embedding.segment.weight", f"{hf}.token_type_embeddings.weight")
        yield from affine("embedding.norm", f"{hf}.LayerNorm")

    def layers(self, number: int, ours: str = "layers") -> Iterator[HFTensor]:
        for i in range(number):
            name, hf = f"{ours}.{i}", f"{self.prefix}encoder.layer.{i}"
            for kind in ("query", "key", "value"):
                yield from affine(f"{name}.attention.{kind}", f"{hf}.attention.self.{kind}")
            yield from affine(f"{name}.attention.output", f"{hf}.attention.output.dense")
            yield from affine(f"{name}.attention_norm", f"{hf}.attention.output.LayerNorm")
            yield from affine(f"{name}.mlp.up", f"{hf}.intermediate.dense")
            yield from affine(f"{name}.mlp.down", f"{hf}.output.dense")
            yield from affine(f"{name}.mlp_norm", f"{hf}.output.LayerNorm")

    def task_head(self, model: ModelConfig) -> Iterator[HFTensor]:
        """Names the tensors of the head of a task: that over sequences as RoBERTa and ELECTRA have it."""
        if model.head == "sequence":
            yield from affine("head.dense", "classifier.dense")
            yield from affine("head.output", "classifier.out_proj")
        else:
            yield from affine("head.output", "qa_outputs" if model.head == "span" else "classifier")


class HFBert(HFEncoder):
    """Translates BertForPreTraining, or without its head for pairs BertForMaskedLM, BertModel, and those with the head of a
    task."""

    model_type = family = "bert"
    classes: ClassVar = {"BertForPreTraining": HEADS, "BertForMaskedLM": ("transform.", "output."), "BertModel": ()}
    task_classes: ClassVar = task_classes_of("Bert")
    network_class = "BertModel"
    prefix = "bert."
    head_names = ("cls.", *TASK_NAMES)
    task_left_out = re.compile(r"^(bert\.pooler|cls)\.")
    copies: ClassVar = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    first_names = ("bert", "embeddings")
    word = "bert.embeddings.word_embeddings.weight"

    def read_settings(self, settings: Settings) -> dict[str, Any]:
        settings.must_be("hidden_act", "gelu")  # of the head, too, where ours is always that
        return self.read_sizes(settings)

    def tensors(self, model: ModelConfig, half: Half | None = None) -> Iterator[HFTensor]:
        yield from self.embeddings(model)
        yield from self.layers(model.layers)
        if not model.predicts_tokens:
            yield from self._task_tensors(model)
            return
        yield from affine("transform.dense", "cls.predictions.transform.dense")
        yield from affine("transform.norm", "cls.predictions.transform.LayerNorm")
        yield HFTensor("output.bias", "cls.predictions.bias")
        if model.pair_head:
            yield from affine("pair.pooler", "bert.pooler.dense")
            yield from affine("pair.classifier", "cls.seq_relationship")

    def _task_tensors(self, model: ModelConfig) -> Iterator[HFTensor]:
        if model.scores_sequences:
            yield from affine("pair.pooler", "bert.pooler.dense")
        yield from affine("head.output", "qa_outputs" if model.head == "span" else "classifier")

    def class_of(self, tensors: Collection[str], half: Half | None) -> str:
        if "transform.dense.weight" not in tensors:
            return "BertModel"
        return "BertForPreTraining" if "pair.classifier.weight" in tensors else "BertForMaskedLM"

    def model_from_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
        return BertConfig(**self.sizes_from_shapes(shapes), pair_head="cls.seq_relationship.weight" in shapes)

    def with_all_heads(self, model: ModelConfig) -> ModelConfig:
        assert isinstance(model, BertConfig)
        return replace(model, pair_head=model.predicts_tokens)

    def with_heads_of(self, model: ModelConfig, tensors: Collection[str]) -> ModelConfig:
        assert isinstance(model, BertConfig)
        return replace(model, pair_head=model.predicts_tokens and "pair.classifier.weight" in tensors)
