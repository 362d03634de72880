"""Raw text to a token store: read, drop duplicates, split, train a tokenizer, tokenize, join."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dist_plm import __version__
from dist_plm.config.decode import encode, flatten, show
from dist_plm.core.errors import DataError, count_of, reason_of
from dist_plm.core.files import sha256_of
from dist_plm.core.out_of_memory import WORK_BYTES, check_room, is_lack_of_memory, lack_of_memory
from dist_plm.data.dedup.deduplicate import deduplicate
from dist_plm.data.prepare import stages
from dist_plm.data.prepare.read_and_clean import collect_rejected, read_and_clean
from dist_plm.data.prepare.staging import check_replaceable, places_of, settle, workspace
from dist_plm.data.prepare.store_summary import summary, why_nothing_is_left
from dist_plm.data.prepare.training_text import TRAINER_BYTES
from dist_plm.data.prepare.unknown import check_store
from dist_plm.data.prepare.worker_group import WorkerGroup
from dist_plm.data.sources.sources import SourceFiles, find_sources
from dist_plm.data.store.manifest import (
    NAME,
    SPLITS,
    Counts,
    Manifest,
    SourcesRecord,
    SplitRecords,
    TokenizerRecord,
    Versions,
    read_configuration,
    read_manifest,
    write_manifest,
)
from dist_plm.data.store.store import TokenStore, dtype_for
from dist_plm.data.store.verify import check_tokenizer
from dist_plm.data.tokenizers.save import COMPANION_NAMES
from dist_plm.data.tokenizers.tokenizer_files import FILE_NAME, fingerprint
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.spec.prepare.schema import PrepareConfig, SourceConfig

#: Settings that do not change what is in the store.
_INCIDENTAL = ("out", "workers", "overwrite", "max_rejected", "rank_timeout_seconds")
_ALONE = LaunchEnv()


@dataclass(frozen=True, slots=True)
class PreparedStore:
    """A finished store and its manifest. `reused`: it was there already, made from the same."""

    path: Path
    manifest: Manifest
    reused: bool


def prepare(config: PrepareConfig, report: Callable[[str], None], launch: LaunchEnv = _ALONE) -> PreparedStore | None:
    """Makes the store that `config` describes at `config.data.out`; `report` gets lines for a person to read.

    Started again after any interruption it goes on where it was. The same sources and configuration give the same
    bytes, whatever `config.data.workers` is and however many ranks share the work: `launch` says which of them this is,
    and all have to see the same directories. Rank 0 moves the store to its place and returns it; the others may return
    nothing, and before that.

    Raises:
        DataError: sources, tokenizer or output cannot be used, disk or memory do not bear it, or another rank ended.
    """
    try:
        return _prepare(config, report if launch.rank == 0 else lambda line: None, launch)
    except OSError as error:
        where = error.filename or config.data.out
        raise DataError(
            f"cannot prepare data: {where}: {reason_of(error, where)}; when that is mended, the same command goes on "
            "from here"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        raise lack_of_memory(error) from error


def _prepare(config: PrepareConfig, report: Callable[[str], None], launch: LaunchEnv) -> PreparedStore | None:
    out = Path(config.data.out)
    sources = find_sources(config.data.sources, but=places_of(out))  # what it makes is no text to read
    inputs = _inputs(config, sources)
    if out.exists():
        check_replaceable(out, overwrite=config.data.overwrite)
        if launch.rank == 0:
            settle(out)
        if any(out.iterdir()) and not config.data.overwrite:
            existing = _reusable(out, inputs)
            report(f"{out} is there already, from the same sources and configuration: nothing to do")
            return existing
    check_room(_memory_bytes(config, sources))
    group = WorkerGroup(launch, config.data.workers, config.data.rank_timeout_seconds)
    with workspace(out, inputs, group, report, overwrite=config.data.overwrite) as (store, scratch):
        if not (store / NAME).exists():
            _build(config, sources, inputs, store, scratch, group, report)
    if launch.rank != 0:
        return None
    manifest = read_manifest(out)
    report(summary(out, manifest))
    return PreparedStore(out, manifest, reused=False)


def _memory_bytes(config: PrepareConfig, sources: SourceFiles) -> int:
    """About what this process may need, training included: little text takes less than it may."""
    training = min(config.tokenizer.memory_mb * 10**6, sources.num_bytes * TRAINER_BYTES)
    return WORK_BYTES + (training if config.tokenizer.name != "file" else 0)


def _build(
    config: PrepareConfig,
    sources: SourceFiles,
    inputs: dict[str, Any],
    store: Path,
    scratch: Path,
    group: WorkerGroup,
    report: Callable[[str], None],
) -> None:
    report(f"reading {count_of(sources.num_files, 'file', ',')}, {sources.num_bytes / 1e6:.1f} MB")
    if sources.num_repeated:
        report(
            f"  {count_of(sources.num_repeated, 'file', ',')} that several of data.sources match "
            f"{'is' if sources.num_repeated == 1 else 'are'} read once, by the first of them"
        )
    read = read_and_clean(sources, config.clean, scratch / "documents", group)
    tally = collect_rejected(read, store, config.data.max_rejected, group, report, out=Path(config.data.out))
    found = [task.shard for task in read]
    shards, selection, repeated = deduplicate(config.dedup, found, config.data.split, scratch, group)
    cleaned = tally.stages(config.clean.rules)
    if selection.split_bytes["train"] == 0:
        raise DataError(
            f"no text is left to train on, of {count_of(tally.documents, 'document', ',')} in "
            f"{count_of(sources.num_files, 'file', ',')}: {why_nothing_is_left(tally.documents, cleaned, repeated)}"
        )
    tokenizer_path = store / FILE_NAME
    make = partial(stages.make_tokenizer, config.tokenizer, shards, selection, tokenizer_path, report)
    group.lead(tokenizer_path, make)
    tokenizer = make()
    tasks = stages.tokenize(
        shards,
        selection,
        tokenizer_path,
        tokenizer.end_of_document,
        scratch / "tokens",
        group,
        report,
        by_sentences=config.data.sentences,
    )
    if group.rank != 0:
        return
    records = stages.join(tasks, selection, tokenizer.vocab_size, store)
    dtype = dtype_for(tokenizer.vocab_size)
    if told := check_store(store, records, dtype, tokenizer, config.tokenizer.max_unknown):
        report(told)
    manifest = Manifest(
        dtype=dtype.name,
        splits=SplitRecords(**dict(zip(SPLITS, records, strict=True))),
        tokenizer=TokenizerRecord(
            file=FILE_NAME,
            sha256=sha256_of(tokenizer_path),
            vocab_size=tokenizer.vocab_size,
            end_of_document=tokenizer.end_of_document,
            end_of_document_id=tokenizer.end_of_document_id,
            beside={name: sha256_of(store / name) for name in COMPANION_NAMES if (store / name).exists()},
        ),
        counts=Counts(documents=tally.documents, text_bytes=tally.num_bytes, rejected=dict(tally.rejected)),
        stages=cleaned + repeated,
        sources=SourcesRecord(files=sources.num_files, bytes=sources.num_bytes, fingerprint=sources.fingerprint),
        versions=_versions(),
    )
    write_manifest(store, manifest, inputs["configuration"])


def _inputs(config: PrepareConfig, sources: SourceFiles) -> dict[str, Any]:
    """All that decides the bytes of the store."""
    configuration = encode(config)
    configuration["data"] = {k: v for k, v in configuration["data"].items() if k not in _INCIDENTAL}
    del configuration["tokenizer"]["max_unknown"]  # which lets pass, and changes nothing
    configuration["tokenizer"]["sentinels"] = config.tokenizer.num_sentinels
    if config.tokenizer.path is not None:
        configuration["tokenizer"]["file_sha256"] = fingerprint(config.tokenizer.path)
    if config.clean.c4.bad_words is not None:
        configuration["clean"]["c4"]["bad_words_sha256"] = sha256_of(Path(config.clean.c4.bad_words))
    return {"configuration": configuration, "sources": sources.fingerprint, "versions": encode(_versions())}


def _versions() -> Versions:
    return Versions(dist_plm=__version__, numpy=np.__version__, tokenizers=version("tokenizers"))


def _completed(configuration: dict[str, Any]) -> dict[str, Any]:
    """Completes the record of a store that was made when sources and tokenizers had fewer settings: those it lacks are as
    they were then, the defaults."""
    data, tokenizer = configuration.get("data", {}), configuration.get("tokenizer", {})
    sources = [{**encode(SourceConfig()), **source} for source in data.get("sources", ())]
    if "special" not in tokenizer:
        # It was there for all kinds of tokenizers, and had an effect on two.
        sentinels = tokenizer.get("sentinels", 0) if tokenizer.get("name") in ("unigram", "file") else 0
        tokenizer = {**tokenizer, "special": [], "sentinels": sentinels}
    return {**configuration, "data": {**data, "sources": sources}, "tokenizer": tokenizer}


def _reusable(out: Path, inputs: dict[str, Any]) -> PreparedStore:
    """The store at `out`, if it was made from `inputs`.

    Raises:
        DataError: it was made otherwise, or is damaged.
    """
    remedy = "data.overwrite=true replaces it, or choose another data.out"
    try:
        manifest = read_manifest(out)
        for name in SPLITS:
            TokenStore.open(out / manifest.split(name).prefix)
        check_tokenizer(out, manifest)
    except DataError as error:
        raise DataError(f"data.out = {str(out)!r} is there but cannot be used: {error}. {remedy}") from error
    old, new = flatten(_completed(read_configuration(out))), flatten(inputs["configuration"])
    changes = [
        f"{key}: {show(old.get(key))} -> {show(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if not changes and manifest.sources.fingerprint != inputs["sources"]:
        changes = ["the files it was made from are not the same any more (their names, sizes or times of change)"]
    if changes:
        raise DataError(f"data.out = {str(out)!r} holds a store made otherwise ({'; '.join(changes)}): {remedy}")
    return PreparedStore(out, manifest, reused=True)
