"""Reads and writes config.json of Hugging Face."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_plm.config.decode import decode, show
from dist_plm.core.errors import CheckpointError, ConfigError, reason_of
from dist_plm.core.parsing import load_json, read_text
from dist_plm.interop.hf.base import Half, Settings, architecture_of, differences, with_head_of
from dist_plm.interop.hf.registry import ELECTRA, MODELS, hf_model
from dist_plm.spec.schema import ModelConfig

CONFIG_FILE = "config.json"
#: Directories of the two models as which ELECTRA is stored.
HALVES = ELECTRA.halves


def read_config(directory: Path) -> dict[str, Any]:
    """The content of `directory`/config.json.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    path = directory / CONFIG_FILE
    try:
        content = load_json(read_text(path))
    except FileNotFoundError:
        raise CheckpointError(
            f"{directory} has no {CONFIG_FILE}, which tells the sizes of the model: give a directory as "
            "save_pretrained of Hugging Face writes it"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {reason_of(error, path)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not describe a model: it holds no JSON object")
    return content


def type_of(config: Mapping[str, Any], where: str) -> str:
    """The `model_type` of a config.json.

    Raises:
        CheckpointError: it, or the class it was saved from, is none of those that can be read.
    """
    known = config.get("model_type")
    if not isinstance(known, str) or known not in MODELS:
        raise CheckpointError(
            f"{where} is of model_type {known!r}, which this program has no model for: it knows {', '.join(MODELS)}"
        )
    named = architecture_of(config)
    classes = [*MODELS[known].classes, *MODELS[known].task_classes]
    if named is not None and named not in classes:
        raise CheckpointError(
            f"{where} is of a {named}; of model_type {known!r} the weights of {' and '.join(classes)} are read"
        )
    return known


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
        theirs = MODELS[type_of(config, where)]
        model = with_head_of(decode(ModelConfig, theirs.read_settings(settings)), theirs, config)
        if problems := list(model.size_problems()):
            raise ConfigError(problems)
        return model
    except ConfigError as error:
        raise CheckpointError(f"{where} does not describe a model: {'; '.join(error.problems)}") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:  # sizes that cannot be computed with
        raise CheckpointError(f"{where} does not describe a model: {error}") from None


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
        return MODELS[type_of(settings, where)].told_by(model, settings, where)
    halves = [model_of(read_config(directory / half), str(directory / half / CONFIG_FILE)) for half in HALVES]
    return ELECTRA.joined(halves, path)


def named_labels(labels: Sequence[str]) -> dict[str, Any]:
    """Makes the settings of a config.json that name labels, in the order of the scores."""
    return {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def hf_config(model: ModelConfig, tensors: Collection[str], half: Half | None = None) -> dict[str, Any]:
    """Makes the content of the config.json with which Hugging Face loads a model of ours, but for token numbers.

    Args:
        model: finalised.
        tensors: canonical names of the weights that there are: without a head it is the class of the network below it.
        half: of a model whose halves are models of their own there, and needed for such.
    Raises:
        CheckpointError: Hugging Face has no class for such a model; the settings that none has are named.
    """
    theirs = hf_model(model)
    network = theirs.network_of(model, half)
    named = theirs.class_of(tensors, half) if model.predicts_tokens else theirs.class_with(model.head)
    config = {"architectures": [named], **theirs.write_settings(network)}
    if model.scores_labels:
        config |= named_labels([f"LABEL_{number}" for number in range(model.num_labels)])
    # Neither half's file tells how large the generator is beside the discriminator.
    found = differences(network, model_of(config, CONFIG_FILE), "discriminator" if half else None)
    if found:
        told = ", ".join(f"model.{name} = {show(ours)} (it has {show(theirs)})" for name, ours, theirs in found)
        raise CheckpointError(f"Hugging Face's {config['architectures'][0]} cannot be a model with {told}")
    return config
