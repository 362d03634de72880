"""Opens what a configuration says is read: one store or a blend of several, as windows, packed rows or pairs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dist_plm.core.errors import DataError
from dist_plm.data.sampling.blend import Blend, Dataset
from dist_plm.data.sampling.blend_schedule import parts_of
from dist_plm.data.sampling.packed import PackedDataset, SentenceRows
from dist_plm.data.sampling.pairs import PairDataset
from dist_plm.data.sampling.windows import WindowDataset
from dist_plm.data.store.manifest import read_manifest
from dist_plm.data.store.splits import StoreSplit, find_split
from dist_plm.spec.schema import BlendSource, DataConfig, SamplesConfig
from dist_plm.spec.schema_finetune import LabelledDataConfig


@dataclass(frozen=True, slots=True)
class Form:
    """Says what form of samples an objective takes.

    Attributes:
        source: windows of text, or pairs of segments.
        window_length: tokens of text in a sample; windows hold one more.
        predicts_next: whether the one more is of use in rows that are packed: it is predicted.
        with_second: whether pairs have second runs.
        frame: tokens that go around each document that is packed into a row with others.
    """

    source: Literal["windows", "pairs"]
    window_length: int
    predicts_next: bool = False
    with_second: bool = True
    frame: int = 0


def open_samples(
    data: DataConfig, split: str, form: Form, *, seed: int, num_samples: int = 0, vocab_size: int | None = None
) -> Dataset:
    """The samples of "train", "validation" or "test".

    Of a blend's stores each gives validation and test samples for one epoch at most.

    Args:
        num_samples: that are going to be read, as far as that is known.
        vocab_size: of the model; tokens beyond it are refused when they are read.
    Raises:
        DataError: a store cannot be used, or stores have different tokenizers, or so many samples are not there.
    """
    found = [find_split(path, split, data.split, vocab_size=vocab_size) for path in data.stores]
    datasets = [_dataset(data, split, form, seed) for split in found]
    if data.path is not None:
        return datasets[0]
    tokenizer_store(data)
    parts = parts_of(_weights(data, found))
    caps = [_cap(source, dataset, split) for source, dataset in zip(data.blend, datasets, strict=True)]
    blend = Blend(datasets, parts, caps, data.stores)
    blend.check(num_samples)
    return blend


def tokenizer_store(data: SamplesConfig) -> str | None:
    """The store whose tokenizer gives all tokens their meaning: the first prepared one, or else the first if there is any; of
    labelled rows their tokenizer itself.

    Raises:
        DataError: prepared stores have different tokenizers, or one of them cannot be read.
    """
    if isinstance(data, LabelledDataConfig):
        return data.tokenizer
    if not isinstance(data, DataConfig):
        return None
    prepared = [path for path in data.stores if Path(path).is_dir()]
    records = {path: read_manifest(path).tokenizer for path in prepared} if len(prepared) > 1 else {}
    for path, record in records.items():
        if record.numbers != records[prepared[0]].numbers:
            raise DataError(
                f"data.blend: {prepared[0]} and {path} were prepared with different tokenizers, so the same number would "
                f"mean different tokens: prepare one of them again with tokenizer=file and the other's tokenizer.json"
            )
    return next(iter(prepared or data.stores), None)


def _dataset(data: DataConfig, found: StoreSplit, form: Form, seed: int) -> Dataset:
    length = form.window_length
    if form.source == "pairs":
        return PairDataset(found, window_length=length, seed=seed, with_second=form.with_second)
    if data.packing == "concat":
        return WindowDataset.of(found, sequence_length=length, seed=seed)
    capacity = length + form.predicts_next
    if data.packing == "doc_sentences":
        return SentenceRows(found, window_length=length, capacity=capacity, seed=seed)
    if data.packing == "full_sentences":
        return PackedDataset(found, unit="sentences", window_length=length, capacity=capacity, seed=seed)
    return PackedDataset(found, unit="documents", window_length=length, capacity=capacity, seed=seed, frame=form.frame)


def _weights(data: DataConfig, found: Sequence[StoreSplit]) -> list[float]:
    """As given, or in proportion to sizes under a temperature (Arivazhagan et al. 2019, arXiv 1907.05019, section 4.2)."""
    given = [source.weight for source in data.blend if source.weight is not None]
    if given:
        return given
    largest = max(split.num_tokens for split in found)
    shares = [(split.num_tokens / largest) ** (1 / (data.temperature or 1.0)) for split in found]
    return [max(share, sys.float_info.min) for share in shares]  # a low temperature leaves nothing of some


def _cap(source: BlendSource, dataset: Dataset, split: str) -> int | None:
    if split != "train":
        return dataset.num_windows
    return None if source.max_epochs is None else max(1, int(source.max_epochs * dataset.num_windows))
