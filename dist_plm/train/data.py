"""Opens what a run reads: the objective that its tokenizer allows, and the samples that the objective asks for.

Needs no process group and no PyTorch, so that a store which does not fit is refused on the login node already.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_plm.core.errors import DataError
from dist_plm.data.sampling.blend import Dataset
from dist_plm.data.sampling.build_dataset import Form, open_samples, tokenizer_store
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.data.store.manifest import read_manifest
from dist_plm.data.store.verify import tokenizer_of_store
from dist_plm.objectives.base import Objective
from dist_plm.objectives.build import build_objective
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.schema import DataConfig, ModelConfig
from dist_plm.spec.schema_run import TrainConfig


@dataclass(frozen=True, slots=True)
class RunData:
    """`samples` are those of "train", and of "validation" where the run evaluates."""

    objective: Objective[Any]
    samples: Mapping[str, Dataset]


def open_data(data: DataConfig, objective: ObjectiveConfig, train: TrainConfig, model: ModelConfig) -> RunData:
    """Opens what a finalised run learns, and the samples it learns from.

    Raises:
        ConfigError: the data's tokenizer lacks what the objective needs.
        DataError: the data cannot be used.
    """
    learned = build_objective(
        objective,
        special_tokens(tokenizer_store(data)),
        seed=train.seed,
        sequence_length=data.sequence_length,
        has_decoder=model.has_decoder,
    )
    form = _form_of(objective, learned, data.sequence_length)
    splits = ["train"] if train.eval_samples == 0 else ["train", "validation"]
    needed = {"train": BatchSizes.of(train).after(train.stop_at or train.steps)}
    known = {"seed": train.seed, "vocab_size": model.vocab_size}
    samples: dict[str, Dataset] = {}
    for split in splits:
        try:
            samples[split] = open_samples(data, split, form, num_samples=needed.get(split, 0), **known)
        except DataError as error:
            if split == "train":
                raise
            raise DataError(f"{error}; or train without evaluating, with train.eval_samples=0") from None
    return RunData(learned, samples)


def vocab_size_of(path: str | None) -> int | None:
    """Counts the tokens of a prepared store's tokenizer; a bare Megatron pair does not tell."""
    return None if path is None or not Path(path).is_dir() else read_manifest(path).tokenizer.vocab_size


def special_tokens(path: str | None) -> SpecialTokens | None:
    """Finds the special tokens of a prepared store's tokenizer; a bare Megatron pair does not tell.

    Raises:
        DataError: the store or its tokenizer cannot be read, or they do not belong together.
    """
    if path is None or not Path(path).is_dir():
        return None
    tokenizer = tokenizer_of_store(path)
    return tokenizer.special_tokens().with_vocabulary(tokenizer.pieces())


def _form_of(objective: ObjectiveConfig, learned: Objective[Any], sequence_length: int) -> Form:
    """Tells in what form an objective takes the text of a run."""
    window_length = learned.window_length(sequence_length)
    return Form(
        source=learned.source,
        window_length=window_length,
        predicts_next=objective.predicts_next,
        with_second=objective.pairs == "nsp",
        frame=sequence_length - window_length if objective.isolates_documents else 0,
    )
