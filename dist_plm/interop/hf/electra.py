"""Translates ELECTRA, whose halves Hugging Face stores as two models: what they share is then in both."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from dist_plm.config.decode import show
from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.base import (
    GENERATOR_SIZES,
    HEADS,
    Half,
    HFTensor,
    Settings,
    affine,
    architecture_of,
    differences,
)
from dist_plm.interop.hf.bert import TASK_NAMES, HFEncoder, task_classes_of
from dist_plm.spec.families.electra import ElectraConfig, generator_of
from dist_plm.spec.schema import ModelConfig

#: How the head of a choice takes the first token, as Transformers has it where nothing is said.
_SUMMARY = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}


class HFElectra(HFEncoder):
    """Translates ElectraForMaskedLM, the generator, ElectraForPreTraining, the discriminator, and its encoder with the head of
    a task. A file tells of one half; the model read from it has a generator as large as the discriminator."""

    model_type = family = "electra"
    classes: ClassVar = {"ElectraForMaskedLM": HEADS, "ElectraForPreTraining": HEADS}
    task_classes: ClassVar = task_classes_of("Electra")
    prefix = "electra."
    head_names = ("generator_", "discriminator_", *TASK_NAMES)
    task_left_out = re.compile(r"^discriminator_predictions\.")
    copies: ClassVar = {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}
    first_names = ("electra",)
    halves = ("generator", "discriminator")

    def read_settings(self, settings: Settings) -> dict[str, Any]:
        settings.must_be("hidden_act", "gelu")
        if architecture_of(settings.content) == "ElectraForMultipleChoice":
            for name, value in _SUMMARY.items():
                settings.must_be(name, value)
        model = {**self.read_sizes(settings), "embedding_size": settings.get("embedding_size", 128)}
        return model | {f"generator_{name}": model[name] for name in ("hidden", "layers", "heads", "ffn")}

    def write_settings(self, model: ModelConfig) -> dict[str, Any]:
        return {**super().write_settings(model), "embedding_size": model.embedding_size}

    def tensors(self, model: ModelConfig, half: Half | None = None) -> Iterator[HFTensor]:
        assert half is not None or not model.predicts_tokens
        network, name = self.network_of(model, half), half or "discriminator"
        yield from self.embeddings(model)
        yield from self.layers(network.layers, f"{name}.layers")
        if network.hidden != model.embedding_size:
            yield from affine(f"{name}.project", "electra.embeddings_project")
        if half is None:
            if model.head == "choice":
                yield from affine("head.dense", "sequence_summary.summary")
            yield from self.task_head(model)
        elif half == "generator":
            yield from affine("transform.dense", "generator_predictions.dense")
            yield from affine("transform.norm", "generator_predictions.LayerNorm")
            yield HFTensor("output.bias", "generator_lm_head.bias")
        else:
            yield from affine("detector.dense", "discriminator_predictions.dense")
            yield from affine("detector.classifier", "discriminator_predictions.dense_prediction")

    def class_of(self, tensors: Collection[str], half: Half | None) -> str:
        return "ElectraForMaskedLM" if half == "generator" else "ElectraForPreTraining"

    def network_of(self, model: ModelConfig, half: Half | None) -> ModelConfig:
        return generator_of(model) if half == "generator" else model

    def half_of(self, names: Iterable[str]) -> Half | None:
        return "generator" if any(name.startswith("generator_") for name in names) else "discriminator"

    def joined(self, halves: Sequence[ModelConfig], where: str) -> ModelConfig:
        """Joins generator and discriminator.

        Raises:
            CheckpointError: they cannot share their embeddings, or differ in what the two have in common here.
        """
        generator, discriminator = halves
        assert isinstance(discriminator, ElectraConfig)
        model = replace(
            discriminator,
            generator_hidden=generator.hidden,
            generator_layers=generator.layers,
            generator_heads=generator.heads,
            generator_ffn=generator.ffn,
        )
        if found := differences(generator, model, "generator"):
            told = "; ".join(
                f"{name} is {show(a)} in the generator, {show(b)} in the discriminator" for name, a, b in found
            )
            raise CheckpointError(f"the halves of {where} are not of one model: {told}")
        return model

    def told_by(self, model: ModelConfig, settings: Mapping[str, Any], where: str) -> ModelConfig:
        """Leaves the generator's sizes out, which the discriminator's file does not tell.

        Raises:
            CheckpointError: it is the generator's, which does not tell of the other.
        """
        if architecture_of(settings) == "ElectraForMaskedLM":
            raise CheckpointError(
                f"{where} is of the generator of electra, which does not tell the sizes of the discriminator: give a "
                f"directory that holds both, as {' and '.join(self.halves)}, or a model of conf/model/"
            )
        assert isinstance(model, ElectraConfig)
        return replace(model, **dict.fromkeys(GENERATOR_SIZES))
