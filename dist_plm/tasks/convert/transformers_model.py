"""Builds Transformers' own model with weights of ours, in memory."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor

from dist_plm.checkpoint.finite import is_finite
from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.registry import hf_tensors
from dist_plm.models.build import whole_shard_specs
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.families.tensors import shapes_of
from dist_plm.train.startup.load_weights import Weights


def be_quiet() -> None:
    """Has Transformers show errors alone."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def transformers_model(model: ModelConfig, weights: Weights, settings: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Builds the class that a config.json names, with weights of a finalised model that has no halves.

    Args:
        settings: of config.json, as `interop.hf.config_json.hf_config` makes it.
    Raises:
        CheckpointError: the weights are broken.
    """
    kind = getattr(transformers, settings["architectures"][0])
    named = dict(settings)
    config = transformers.AutoConfig.for_model(named.pop("model_type"), **named)
    entries = {entry.name: entry for entry in hf_tensors(model)}
    shapes = shapes_of(model)
    state: dict[str, Tensor] = {}
    for shard_spec in whole_shard_specs(model):
        values = weights.read(shard_spec)
        if not is_finite(values):
            raise CheckpointError(f"{weights.where} holds numbers that are not finite: name another checkpoint")
        for shard in shard_spec.shards:
            entry = entries[shard.name]
            if entry.hf not in state:
                state[entry.hf] = torch.empty(entry.stored_shape(shapes[shard.name]), dtype=dtype)
            entry.logical(state[entry.hf]).copy_(shard.local(values))
    return kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
