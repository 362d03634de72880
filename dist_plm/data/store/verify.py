"""Compares a store with its manifest, file by file and bit by bit."""

from collections.abc import Callable
from pathlib import Path

from dist_plm.core.errors import DataError, count_of, reason_of
from dist_plm.core.files import sha256_of
from dist_plm.data.store.manifest import NAME, SPLITS, Manifest, read_manifest
from dist_plm.data.store.store import TokenStore
from dist_plm.data.tokenizers.tokenizer import Tokenizer


def verify(store: Path, report: Callable[[str], None]) -> Manifest:
    """Reads every file that the manifest of `store` names; `report` gets a line that says what was found sound.

    Raises:
        DataError: naming each file that is missing, cannot be read, or is not what it was.
    """
    from tqdm import tqdm  # here, as those who only open a store do without

    manifest = read_manifest(store)
    expected = hashes(manifest)
    sizes = {name: (store / name).stat().st_size if (store / name).exists() else 0 for name in expected}
    problems = []
    with tqdm(total=sum(sizes.values()), desc="verify", unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for name, sha256 in expected.items():
            problems += _damage(store / name, sha256)
            bar.update(sizes[name])
    problems = problems or [problem for name in SPLITS for problem in _misfit(store, manifest, name)]
    problems = problems or _foreign_tokenizer(store, manifest)
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise DataError(f"{store} is damaged:{listed}\ncopy these files again, or prepare the data again")
    report(f"{store}: {count_of(len(expected), 'file')}, {sum(sizes.values()) / 1e6:,.1f} MB, all as they were written")
    return manifest


def hashes(manifest: Manifest) -> dict[str, str]:
    """Name -> SHA-256 of every file that a manifest vouches for."""
    found = {}
    for name in SPLITS:
        record = manifest.split(name)
        found |= {f"{record.prefix}.bin": record.bin_sha256, f"{record.prefix}.idx": record.idx_sha256}
    return found | _hashes_of_tokenizer(manifest)


def _hashes_of_tokenizer(manifest: Manifest) -> dict[str, str]:
    return {manifest.tokenizer.file: manifest.tokenizer.sha256, **manifest.tokenizer.beside}


def check_tokenizer(store: Path, manifest: Manifest) -> None:
    """Raises DataError where a file of a store's tokenizer is not what it was."""
    for name, sha256 in _hashes_of_tokenizer(manifest).items():
        for problem in _damage(store / name, sha256):
            raise DataError(problem)


def _damage(path: Path, sha256: str) -> list[str]:
    try:
        found = sha256_of(path)
    except OSError as error:
        return [f"{path} cannot be read: {reason_of(error, path)}"]
    return [] if found == sha256 else [f"{path} has SHA-256 {found}, and had {sha256} when it was written"]


def _misfit(store: Path, manifest: Manifest, split: str) -> list[str]:
    """Where the files are those of the manifest: whether it says of them what is in them."""
    record = manifest.split(split)
    tokens = TokenStore.open(store / record.prefix)
    found = (tokens.num_tokens, tokens.num_documents, tokens.dtype.name)
    if found == (record.tokens, record.documents, manifest.dtype):
        return []
    return [
        f"manifest.json speaks of {record.tokens:,} tokens in {record.documents:,} documents as {manifest.dtype}, "
        f"{store / record.prefix}.idx of {found[0]:,} in {found[1]:,} as {found[2]}"
    ]


def tokenizer_of_store(store: str | Path) -> Tokenizer:
    """The tokenizer that gives the tokens of a store their meaning.

    Raises:
        DataError: it cannot be read, or is not what the manifest says of it.
    """
    manifest = read_manifest(store)
    record, path = manifest.tokenizer, Path(store) / manifest.tokenizer.file
    tokenizer = Tokenizer.load(path, record.end_of_document)
    problems = _damage(path, record.sha256) or _foreign_tokenizer(Path(store), manifest, tokenizer)
    if problems:
        raise DataError(f"{problems[0]}: copy these files again, or prepare the data again")
    return tokenizer


def _foreign_tokenizer(store: Path, manifest: Manifest, tokenizer: Tokenizer | None = None) -> list[str]:
    """Where the numbers of the manifest are not those of the tokenizer beside it."""
    record = manifest.tokenizer
    tokenizer = tokenizer or Tokenizer.load(store / record.file, record.end_of_document)
    found = (tokenizer.vocab_size, tokenizer.end_of_document_id)
    if found == (record.vocab_size, record.end_of_document_id):
        return []
    return [
        f"{store / NAME} speaks of {record.vocab_size:,} tokens, of which number {record.end_of_document_id:,} ends a "
        f"document, {store / record.file} of {found[0]:,} and {found[1]:,}"
    ]
