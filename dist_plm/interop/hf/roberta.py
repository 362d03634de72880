"""Translates RoBERTa."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.base import HEADS, Half, HFTensor, Settings, affine
from dist_plm.interop.hf.bert import TASK_NAMES, HFEncoder, task_classes_of
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.families.roberta import RobertaConfig

if TYPE_CHECKING:
    from dist_plm.interop.hf.checkpoint_tokenizer import CheckpointTokenizer


class HFRoberta(HFEncoder):
    """Translates RobertaForMaskedLM, RobertaModel, and those with the head of a task. Positions are counted from the row after
    that of padding (`create_position_ids_from_input_ids`)."""

    model_type = family = "roberta"
    classes: ClassVar = {"RobertaForMaskedLM": HEADS, "RobertaModel": ()}
    task_classes: ClassVar = task_classes_of("Roberta")
    network_class = "RobertaModel"
    prefix = "roberta."
    copies: ClassVar = {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }
    head_names = ("lm_head.", *TASK_NAMES)
    left_out = re.compile(r"^roberta\.pooler\.")
    task_left_out = re.compile(r"^(roberta\.pooler|lm_head)\.")
    first_names = ("roberta",)
    word = "roberta.embeddings.word_embeddings.weight"

    def read_settings(self, settings: Settings) -> dict[str, Any]:
        pad = settings.get("pad_token_id", 1)
        if pad < 0:
            raise CheckpointError(
                f"{settings.where}: pad_token_id = {pad} is no token, and positions are counted from it"
            )
        offset = pad + 1
        rows = settings["max_position_embeddings"]
        return {**self.read_sizes(settings), "max_positions": rows - offset, "position_offset": offset}

    def write_settings(self, model: ModelConfig) -> dict[str, Any]:
        assert model.max_positions is not None
        rows = model.max_positions + model.position_offset
        padding = {"pad_token_id": max(model.position_offset, 1) - 1}
        return {**super().write_settings(model), "max_position_embeddings": rows, **padding}

    def model_from_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
        return RobertaConfig(**self.sizes_from_shapes(shapes))

    def tensors(self, model: ModelConfig, half: Half | None = None) -> Iterator[HFTensor]:
        yield from self.embeddings(model)
        yield from self.layers(model.layers)
        if not model.predicts_tokens:
            if model.head == "choice":
                yield from affine("head.dense", "roberta.pooler.dense")
            yield from self.task_head(model)
            return
        yield from affine("transform.dense", "lm_head.dense")
        yield from affine("transform.norm", "lm_head.layer_norm")
        yield HFTensor("output.bias", "lm_head.bias")

    def class_of(self, tensors: Collection[str], half: Half | None) -> str:
        return "RobertaForMaskedLM" if "transform.dense.weight" in tensors else "RobertaModel"

    def differences_of_tokens(self, settings: Mapping[str, Any], tokens: "CheckpointTokenizer") -> Iterator[str]:
        """Yields that the token before the first position counts none in these classes, whatever it is in the vocabulary."""
        pad, told = None if tokens.special is None else tokens.special.pad, settings.get("pad_token_id", 1)
        if pad is not None and pad != told:
            yield (
                f"its tokenizer pads with token {pad}, and pad_token_id is {told}, by which Transformers counts positions: "
                f"those behind a token {told} in a text are others than here, but of a model of model.position_offset={pad + 1}"
            )

    def token_numbers(self, tokens: "CheckpointTokenizer") -> dict[str, int | None]:
        """Leaves the padding out: where positions begin says which token pads."""
        special = tokens.special
        if special is None:
            return {"bos_token_id": None, "eos_token_id": None}
        return {"bos_token_id": special.cls, "eos_token_id": special.sep}
