"""Measures how much of an evaluation set stands in the text that a model was trained on."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dist_plm.config.decode import encode
from dist_plm.core.errors import DataError
from dist_plm.data.dedup.ngram_overlap import NgramOverlap
from dist_plm.data.labelled.rows import RowFile
from dist_plm.data.store.splits import StoreSplit, find_split, refuse_shares
from dist_plm.data.store.verify import tokenizer_of_store
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.distributed.collectives import all_reduce, on_each
from dist_plm.distributed.device import choose
from dist_plm.distributed.launch_env import from_environment
from dist_plm.distributed.world import host_group, init_process_group, shutdown
from dist_plm.spec.inference.evaluations import EvaluationDataConfig
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.tasks.evaluate.passages import texts_of_files
from dist_plm.tasks.evaluate.sums import Hard, Hardest
from dist_plm.tasks.inference.source import alike, find_source
from dist_plm.train.startup.start import agree_on

#: Characters by which a report tells a text.
_EXCERPT_CHARS = 160


def measure_contamination(config: EvaluateConfig, environ: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """Measures it; returns on the first rank what the file of results holds, and None on the others. Every rank calls it.

    Raises:
        UserError: on every rank alike.
    """
    launch = from_environment(environ)
    timeout = timedelta(minutes=config.cluster.timeout_minutes)
    init_process_group(launch, choose("cpu", launch.local_rank), timeout)
    host = host_group(timeout)
    agree_on(encode(config), launch, host)
    content = contamination_of(config, host)
    shutdown()
    return content if launch.rank == 0 else None


def contamination_of(config: EvaluateConfig, group: dist.ProcessGroup) -> dict[str, Any]:
    """Measures it, each rank of `group` on its share of the training documents. Collective.

    Raises:
        UserError: on every rank alike.
    """
    store = config.data.against or _store_of(config, group)
    tokenizer, overlap, named = alike(group, lambda: _opened(config, store))
    documents = _documents(find_split(store, "train", config.data.shares), tokenizer, group.rank(), group.size())
    on_each(group, lambda: _look_at(overlap, documents))
    marks = torch.from_numpy(overlap.marks.astype("uint8"))
    all_reduce(marks, group, dist.ReduceOp.MAX)
    overlap.marks[:] = marks.numpy() > 0
    return _told(config, store, overlap, named)


def check_contamination(config: EvaluateConfig) -> None:
    """Sees to it, in one process, that both texts are there; neither is read whole.

    Raises:
        UserError: they are not.
    """
    store = config.data.against or _store_of(config, None, verify=False)
    _check_store(store)
    find_split(store, "train", config.data.shares)
    next(_texts(config.data, 0), None)


def _check_store(store: str) -> None:
    if not Path(store).is_dir():
        raise DataError(f"data.against = {store} is no prepared store, and its text is not known: prepare it")


def _store_of(config: EvaluateConfig, group: dist.ProcessGroup | None, *, verify: bool = True) -> str:
    assert config.from_ is not None
    source = find_source(config.from_, group, verify=verify)
    if source.store is None:
        raise DataError(f"the store that {source.where} was trained on is not known: give it as data.against=STORE")
    return source.store


def _opened(config: EvaluateConfig, store: str) -> tuple[Tokenizer, NgramOverlap, list[tuple[str, str]]]:
    """The tokenizer of the training text, the runs of words of the set, and the name and beginning of each of its texts."""
    _check_store(store)
    tokenizer, named = tokenizer_of_store(store), list[tuple[str, str]]()
    as_trained = _as_trained(tokenizer)

    def texts() -> Iterator[str]:
        for name, text in _texts(config.data, config.limit):
            named.append((name, text[:_EXCERPT_CHARS]))
            yield as_trained(text)

    overlap = NgramOverlap(texts(), config.ngram)
    if not overlap.counts.any():
        raise DataError(f"no text of the evaluation set has ngram = {config.ngram} words: name another, or lower ngram")
    return tokenizer, overlap, named


def _look_at(overlap: NgramOverlap, documents: Iterator[str]) -> None:
    for text in documents:
        overlap.look_at(text)


def _as_trained(tokenizer: Tokenizer) -> Callable[[str], str]:
    """Gives texts as they come back from tokens, where these do not give them back byte by byte."""
    if tokenizer.special_tokens().pieces_style == "byte_level":
        return lambda text: text
    return lambda text: _text(tokenizer, tokenizer.encode_batch([text])[0])


def _text(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of tokens but special ones, such as those that stand for unknown signs."""
    special = frozenset(tokenizer.special_tokens().ids)
    return tokenizer.decode([int(token) for token in tokens if token not in special])


def _texts(data: EvaluationDataConfig, limit: int) -> Iterator[tuple[str, str]]:
    found = (
        _of_rows(data) if data.rows is not None else texts_of_files(data) if data.text is not None else _of_store(data)
    )
    for number, one in enumerate(found):
        if limit and number >= limit:
            return
        yield one


def _of_rows(data: EvaluationDataConfig) -> Iterator[tuple[str, str]]:
    assert data.rows is not None
    for row in RowFile("data.rows", data.rows, "test", data.header):
        yield row.place, "\n".join(value for value in row.values.values() if isinstance(value, str))


def _of_store(data: EvaluationDataConfig) -> Iterator[tuple[str, str]]:
    assert data.path is not None
    refuse_shares(data, "shares", [data.path])
    split = find_split(data.path, data.split, data.shares)
    for number, text in enumerate(_documents(split, tokenizer_of_store(data.path), 0, 1)):
        yield f"document {number}", text


def _documents(split: StoreSplit, tokenizer: Tokenizer, first: int, step: int) -> Iterator[str]:
    store = split.store
    for number in range(first, split.num_documents, step):
        start, stop = (store.document_start(split.first + number + more) for more in (0, 1))
        yield _text(tokenizer, store.read(start, stop - start).tolist())


def _told(config: EvaluateConfig, store: str, overlap: NgramOverlap, named: list[tuple[str, str]]) -> dict[str, Any]:
    shares, judged = overlap.shares(), int((overlap.counts > 0).sum())
    hits = sum(share > 0 for share in shares)
    worst = Hardest(config.samples)
    for number, (share, (name, text)) in enumerate(zip(shares, named, strict=True)):
        if share > 0:
            worst.add(Hard(share, number, name, 0, text))
    rows = (asdict(one) for one in worst.sorted())
    data = config.data
    return {
        "on": config.on,
        "data": data.rows or data.text or f"{data.path}, {data.split}",
        "against": store,
        "ngram": config.ngram,
        "results": {
            "contaminated": hits / judged,
            "overlap": sum(shares) / judged,
            "contaminated_texts": hits,
            "texts": judged,
            "too_short": len(shares) - judged,
        },
        "samples": [{"overlap": one["loss"], "name": one["name"], "beginning": one["beginning"]} for one in rows],
    }
