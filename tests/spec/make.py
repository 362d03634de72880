"""A small configuration that every rule accepts, and ways to change it."""

from typing import Any

from dist_plm.config.decode import decode
from dist_plm.spec.prepare.schema import PrepareConfig
from dist_plm.spec.schema import PretrainConfig

PRETRAIN: dict[str, dict[str, Any]] = {
    "run": {"name": "test"},
    "model": {"family": "gpt", "layers": 4, "hidden": 32, "heads": 4},
    "objective": {"name": "causal"},
    "data": {"path": "corpus/test", "sequence_length": 16},
    "optim": {"name": "adamw", "lr": 1e-3},
    "schedule": {"name": "cosine"},
    "engine": {"name": "megatron"},
    "precision": {"name": "fp32"},
    "train": {"steps": 10, "global_batch": 8, "micro_batch": 2},
}

PREPARE: dict[str, dict[str, Any]] = {
    "data": {"sources": [{"path": "texts/*.txt"}], "out": "corpus/test"},
    "tokenizer": {"name": "bpe"},
}


def pretrain_mapping(**changes: Any) -> dict[str, dict[str, Any]]:
    """PRETRAIN with values set at "group__key"."""
    return _changed(PRETRAIN, changes)


def pretrain(**changes: Any) -> PretrainConfig:
    return decode(PretrainConfig, pretrain_mapping(**changes))


def prepare(**changes: Any) -> PrepareConfig:
    return decode(PrepareConfig, _changed(PREPARE, changes))


def _changed(mapping: dict[str, dict[str, Any]], changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    copy = {group: dict(values) for group, values in mapping.items()}
    for key, value in changes.items():
        group, _, name = key.partition("__")
        copy.setdefault(group, {})[name] = value
    return copy
