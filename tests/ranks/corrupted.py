"""Batches of corrupted text for each family, functions of the sample numbers alone, and the losses over them."""

import numpy as np
import torch
from torch import Tensor

from dist_plm.objectives.base import LossTerm
from dist_plm.spec.schema import PretrainConfig

LOSSES = {
    "mlm": {"mlm": LossTerm(1.0, "labels")},
    "mlm_nsp": {"mlm": LossTerm(1.0, "labels"), "nsp": LossTerm(0.5, "pair_labels")},
    "rtd": {"generator": LossTerm(1.0, "labels"), "discriminator": LossTerm(50.0, "originals")},
    "span": {"span": LossTerm(1.0, "labels")},
    "ul2": {"ul2": LossTerm(1.0, "labels")},
}

MASK = 3


def corrupted_batch(config: PretrainConfig, samples: np.ndarray) -> dict[str, Tensor]:
    """Arrays of the samples with these numbers, as the configuration's objective would make them of random tokens."""
    make = {"mlm": _masked, "mlm_nsp": _pair, "rtd": _masked, "span": _span}[config.objective.name]
    rows = [make(np.random.default_rng(int(sample)), config) for sample in samples]
    batch = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    return {**batch, "samples": torch.from_numpy(np.asarray(samples, dtype=np.int64))}


def _masked(draw: np.random.Generator, config: PretrainConfig) -> dict[str, np.ndarray]:
    length = config.data.sequence_length
    originals = draw.integers(5, config.model.vocab_size, length)
    masked = draw.random(length) < 0.25
    arrays = {"tokens": np.where(masked, MASK, originals), "labels": np.where(masked, originals, -1)}
    if config.objective.name == "rtd":
        arrays["originals"] = originals
    if config.objective.isolates_documents:
        arrays["documents"] = np.cumsum(draw.random(length) < 0.15).astype(np.int32)
    return arrays


def _pair(draw: np.random.Generator, config: PretrainConfig) -> dict[str, np.ndarray]:
    """Rows of different lengths, some without a masked token or a label for the pair."""
    most = config.data.sequence_length
    length = int(draw.integers(8, most + 1))
    split = int(draw.integers(2, length - 2))
    index = np.arange(most)
    arrays = _masked(draw, config)
    arrays["labels"] = np.where((index < length) & (draw.random() < 0.9), arrays["labels"], -1)
    arrays["tokens"] = np.where(index < length, arrays["tokens"], 0)
    arrays["segments"] = ((index >= split) & (index < length)).astype(np.int64)
    arrays["lengths"] = np.array(length)
    arrays["pair_labels"] = np.array(int(draw.integers(0, 2)) if draw.random() < 0.6 else -1)
    return arrays


def _span(draw: np.random.Generator, config: PretrainConfig) -> dict[str, np.ndarray]:
    length, vocab = config.data.sequence_length, config.model.vocab_size
    labels = draw.integers(5, vocab, length // 2 + 1)
    labels[int(draw.integers(4, len(labels))) :] = -1
    shifted = np.concatenate([[0], np.maximum(labels[:-1], 0)])
    return {"tokens": draw.integers(5, vocab, length), "labels": labels, "decoder_tokens": shifted}
