"""config.json of Hugging Face and the model it describes."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from dist_plm.config.decode import decode, show
from dist_plm.core.errors import CheckpointError, ConfigError
from dist_plm.interop.hf.models import MODELS, Settings
from dist_plm.spec.schema import ModelConfig

CONFIG_FILE = "config.json"
Half = Literal["generator", "discriminator"]
HALVES: tuple[Half, ...] = ("generator", "discriminator")

#: `model_type` of each family; gpt is two.
TYPES = {"bert": "bert", "roberta": "roberta", "electra": "electra", "gpt2": "gpt", "llama": "gpt", "t5": "t5"}
#: Classes whose weights are read, by `model_type`: those that predict, and the network below them alone.
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "bert": ("BertForPreTraining", "BertForMaskedLM", "BertModel"),
    "roberta": ("RobertaForMaskedLM", "RobertaModel"),
    "electra": ("ElectraForMaskedLM", "ElectraForPreTraining"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Model"),
    "llama": ("LlamaForCausalLM", "LlamaModel"),
    "t5": ("T5ForConditionalGeneration", "T5Model"),
}
#: What neither the weights nor what they compute depends on.
FREE = ("vocab_multiple", "hidden_dropout", "attention_dropout", "init_std", "recompute", "pair_head", "init_from")
#: Read with one kind of `position` alone.
_OF_POSITION = {
    "max_positions": ("learned",),
    "position_offset": ("learned",),
    "rotary_base": ("rotary",),
    "relative_buckets": ("relative",),
    "relative_distance": ("relative",),
}
#: Sizes that the halves of electra have each for itself, and what the generator's are called.
_SIZES = ("hidden", "layers", "heads", "kv_heads", "head_size", "ffn")
_GENERATOR = ("generator_hidden", "generator_layers", "generator_heads", "generator_ffn")


def read_config(directory: Path) -> dict[str, Any]:
    """The content of `directory`/config.json.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    path = directory / CONFIG_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{directory} has no {CONFIG_FILE}, which tells the sizes of the model: give a directory as "
            "save_pretrained of Hugging Face writes it"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not describe a model: it holds no JSON object")
    return content


def type_of(config: Mapping[str, Any], where: str) -> str:
    """The `model_type` of a config.json.

    Raises:
        CheckpointError: it, or the class it was saved from, is none of those that can be read.
    """
    known = config.get("model_type")
    if not isinstance(known, str) or known not in TYPES:
        raise CheckpointError(
            f"{where} is of model_type {known!r}, which this program has no model for: it knows {', '.join(TYPES)}"
        )
    named = architecture_of(config)
    if named is not None and named not in ARCHITECTURES[known]:
        raise CheckpointError(
            f"{where} is of a {named}; of model_type {known!r} the weights of {' and '.join(ARCHITECTURES[known])} are read"
        )
    return known


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """The class that a config.json was saved from, where it tells."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None


def model_of(config: Mapping[str, Any], where: str) -> ModelConfig:
    """The model that a config.json describes, complete but for `pair_head`, and for `max_positions` where no table of them
    is learned. Of one half of electra, whose generator is then as large as the discriminator.

    Args:
        where: how messages call the file.
    Raises:
        CheckpointError: of another type, or with a setting that our models do not have.
    """
    settings = Settings(config, where)
    try:
        return decode(ModelConfig, MODELS[type_of(config, where)](settings))
    except ConfigError as error:
        raise CheckpointError(f"{where} does not describe a model: {'; '.join(error.problems)}") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:  # sizes that cannot be computed with
        raise CheckpointError(f"{where} does not describe a model: {error}") from None


def pair_of(generator: ModelConfig, discriminator: ModelConfig, where: str) -> ModelConfig:
    """ELECTRA's model of the two that its halves' files describe.

    Raises:
        CheckpointError: the halves cannot share their embeddings, or differ in what the two have in common here.
    """
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


def described_at(path: str) -> ModelConfig:
    """The model that the directory of Hugging Face at `path` describes, as `model_of` gives it, from its config.json alone, or
    from those of electra's two halves. Of the discriminator alone the generator's sizes are None.

    Raises:
        CheckpointError: it describes none of ours, or only the generator of electra, which does not tell of the other.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise CheckpointError(f"there is no directory {path}")
    if (directory / CONFIG_FILE).exists() or not all((directory / half).is_dir() for half in HALVES):
        settings, where = read_config(directory), str(directory / CONFIG_FILE)
        model = model_of(settings, where)
        if model.family == "electra":
            if architecture_of(settings) == "ElectraForMaskedLM":
                raise CheckpointError(
                    f"{where} is of the generator of electra, which does not tell the sizes of the discriminator: give a "
                    f"directory that holds both, as {' and '.join(HALVES)}, or a model of conf/model/"
                )
            return replace(model, **dict.fromkeys(_GENERATOR))
        return model
    generator, discriminator = (
        model_of(read_config(directory / half), str(directory / half / CONFIG_FILE)) for half in HALVES
    )
    return pair_of(generator, discriminator, path)


def differences(ours: ModelConfig, theirs: ModelConfig, half: Half | None = None) -> list[tuple[str, Any, Any]]:
    """Settings in which two models' weights, or what they compute with them, differ: name, ours, theirs.

    Args:
        half: of electra, where the weights of the one model are those of this half alone.
    """
    names = [field.name for field in fields(ModelConfig) if field.name not in FREE]
    if ours.family != "electra" or half == "discriminator":
        names = [name for name in names if name not in _GENERATOR]
    if half == "generator":
        names = [name for name in names if name not in _SIZES]
    unread = [name for name, positions in _OF_POSITION.items() if ours.position not in positions]
    pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in names if name not in unread]
    return [pair for pair in pairs if pair[1] != pair[2]]
