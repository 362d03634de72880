"""Measures by a linear probe what a model's hidden states tell: a logistic regression learns from vectors that the model, which
stays as it is, gives labelled rows, and is measured on others (Alain & Bengio 2016, arXiv 1610.01644)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.labelled.rows import RowFile
from dist_plm.data.labelled.table import Ragged, Table, num_examples
from dist_plm.data.loader.batch import Batch
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.distributed.collectives import gather, on_first
from dist_plm.objectives.build import build_task
from dist_plm.objectives.tasks.base import Task
from dist_plm.objectives.tasks.encode_rows import encoded
from dist_plm.spec.inference.evaluations import Pooling
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.spec.tasks.classify import ClassifyConfig
from dist_plm.tasks.inference.open_model import FoundModel, Session, build_runner
from dist_plm.tasks.inference.runner import Runner
from dist_plm.tasks.inference.source import alike
from dist_plm.train.labelled import columns_of, with_labels

#: Iterations of L-BFGS, which a probe of some thousand rows ends well before.
_MOST_ITERATIONS = 1000

PooledRows = NDArray[np.float32]


def measure_probe(config: EvaluateConfig, session: Session) -> dict[str, Any]:
    """Measures a probe; returns what the file of results holds. Collective over all ranks.

    Raises:
        UserError: on every rank alike.
    """
    probe = alike(session.groups.world, lambda: probe_of(config, session))
    return {
        "model": session.source.where,
        "on": config.on,
        "data": config.data.rows,
        "probe": f"of {config.pooling} states, learned from {config.data.train_rows}",
        "results": probe.measure(build_runner(session, needed=()), lambda: None),
        "samples": [],
    }


def probe_of(config: EvaluateConfig, found: FoundModel) -> "Probe":
    """Reads the rows of a probe of a model.

    Raises:
        DataError: they cannot be used.
    """
    run = found.config
    return open_probe(config, found.vocabulary.tokenizer, run.data.sequence_length, has_decoder=run.model.has_decoder)


def open_probe(config: EvaluateConfig, tokenizer: Tokenizer, length: int, *, has_decoder: bool) -> "Probe":
    """Reads the rows of a probe.

    Raises:
        DataError: they cannot be used.
    """
    data = config.data
    assert data.train_rows is not None
    assert data.rows is not None
    limit = config.limit or None
    files = {
        "train": RowFile("data.train_rows", data.train_rows, "train", data.header, limit),
        "test": RowFile("data.rows", data.rows, "test", data.header, limit),
    }
    columns = {split: columns_of(file, ClassifyConfig(), data.columns) for split, file in files.items()}
    task = build_task(with_labels(ClassifyConfig(), files["train"], columns["train"]))
    encoder = ExampleEncoder(tokenizer, length, has_decoder)
    tables = {split: encoded(file, columns[split], task, encoder).table for split, file in files.items()}
    return Probe(task, tables, encoder.padding, config.pooling, config.batch_size)


@dataclass(frozen=True, slots=True)
class Probe:
    """Holds the rows of a probe.

    Args:
        tables: those that it learns from, "train", and those that it is measured on, "test".
        padding: the token that rows are filled up with.
    """

    task: Task[Any]
    tables: Mapping[str, Table]
    padding: int
    pooling: Pooling
    batch_size: int

    def measure(self, runner: Runner, between: Callable[[], None]) -> dict[str, float | int]:
        """Learns and measures, the same on every grid; measures are nan where a vector is not finite. Collective over all
        ranks, which call `between` equally often."""
        vectors = {split: self._vectors(table, runner, between) for split, table in self.tables.items()}
        train, test = self.tables["train"], self.tables["test"]

        def learned() -> dict[str, float | int]:
            labels = train["class_labels"]
            assert isinstance(labels, np.ndarray)
            told = logistic_regression(vectors["train"], labels, len(self.task.config.labels), vectors["test"])
            scorer = self.task.scorer(test)
            scorer.add(np.arange(len(told)), told)
            measures = scorer.measures()
            if not all(np.isfinite(one).all() for one in vectors.values()):
                measures = dict.fromkeys(measures, math.nan)  # what is told of scores that are nan looks like any other
            return {**measures, "rows": num_examples(test), "train_rows": num_examples(train)}

        return on_first(runner.groups.world, learned)

    def _vectors(self, table: Table, runner: Runner, between: Callable[[], None]) -> PooledRows:
        """A vector for each row, on every rank."""
        grid, place, tokens = runner.groups.grid, runner.groups.coordinates, table["tokens"]
        assert isinstance(tokens, Ragged)
        by_length = np.argsort(tokens.lengths, kind="stable")
        mine = by_length[place.data :: grid.data]
        found = np.zeros((len(mine), runner.model.hidden), dtype=np.float32)
        for first in range(0, -(-len(by_length) // grid.data), self.batch_size):
            rows = mine[first : first + self.batch_size]
            batch = self._batch(table, rows if len(rows) else by_length[:1], runner)  # all make as many passes
            found[first : first + len(rows)] = runner.pooled(batch).numpy()[: len(rows)]
            between()
        whole = np.zeros((len(by_length), runner.model.hidden), dtype=np.float32)
        for part in gather(runner.groups.world, (mine, found) if runner.groups.is_first_of_model else None):
            if part is not None:
                whole[part[0]] = part[1]
        return whole

    def _batch(self, table: Table, rows: NDArray[np.int64], runner: Runner) -> Batch:
        tokens = table["tokens"]
        assert isinstance(tokens, Ragged)
        lengths = tokens.lengths_of(rows)
        length = runner.fitting(int(lengths.max()))
        fills = {"tokens": self.padding}
        padded = {
            name: torch.from_numpy(column.padded(rows, length, fills.get(name, 0)))
            for name, column in table.items()
            if isinstance(column, Ragged)
        }
        pooled = torch.from_numpy(weights_of(lengths, length, self.pooling))
        return {**padded, "lengths": torch.from_numpy(lengths), "samples": torch.from_numpy(rows), "pooled": pooled}


def weights_of(lengths: NDArray[np.int64], length: int, pooling: Pooling) -> PooledRows:
    """How much each token counts for the vector of its row, [B, S]."""
    places = np.arange(length)
    ends = {"first": np.ones_like(lengths), "last": lengths, "mean": lengths}[pooling][:, None]
    begins = ends - 1 if pooling == "last" else np.zeros_like(ends)
    return (((places >= begins) & (places < ends)) / (ends - begins)).astype(np.float32)


def logistic_regression(vectors: PooledRows, labels: NDArray[np.int64], count: int, others: PooledRows) -> PooledRows:
    """Learns from vectors [N, H] which of `count` labels each has, and gives scores of `others`, [M, count].

    It is scikit-learn's LogisticRegression() of standardised columns: the sum of losses and half of the squares of all weights
    but the constant ones, at their minimum; of two labels one is scored.
    """
    mean, scale = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    scale[scale == 0.0] = 1.0
    seen, asked = (torch.from_numpy((one - mean) / scale) for one in (vectors, others))
    wanted, scored = torch.from_numpy(labels), count if count > 2 else 1
    weight = torch.zeros(vectors.shape[1], scored, dtype=torch.float64, requires_grad=True)
    constant = torch.zeros(scored, dtype=torch.float64, requires_grad=True)

    def scores(rows: torch.Tensor) -> torch.Tensor:
        found = rows @ weight + constant
        return found if count > 2 else functional.pad(found, (1, 0))

    optimizer = torch.optim.LBFGS(
        [weight, constant],
        max_iter=_MOST_ITERATIONS,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(scores(seen), wanted) + weight.square().sum() / (2 * len(seen))
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return scores(asked).detach().float().numpy()
