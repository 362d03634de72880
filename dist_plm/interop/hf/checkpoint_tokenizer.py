"""The tokenizer that belongs to a checkpoint: its files, and its special tokens by Hugging Face's names."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_plm.config.credentials import followed, unset_in
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.data.store.manifest import NAME as STORE_MANIFEST
from dist_plm.data.store.manifest import read_manifest
from dist_plm.data.tokenizers.beside import Beside
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.tokenizer_files import main_file

if TYPE_CHECKING:  # it brings torch.distributed.checkpoint
    from dist_plm.checkpoint.open_checkpoint import Checkpoint

_CONFIG = "tokenizer_config.json"
#: All that AutoTokenizer reads.
FILES = (
    "tokenizer.json",
    _CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True)
class CheckpointTokenizer:
    """Holds the files of a tokenizer and its special tokens.

    Args:
        files: by name.
        end: ends documents; with `special`, where there is a tokenizer that did not come with an imported checkpoint.
        beside: of a tokenizer.json that stood alone, what keeps Transformers from reading it as the class that a kind of
            model usually has.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    special: SpecialTokens | None = None
    end: int | None = None
    beside: Mapping[str, bytes] = field(default_factory=dict)

    def exported(self, limit: int | None) -> dict[str, bytes]:
        """Gives what Transformers opens, by name.

        Args:
            limit: tokens that the model reads at most, where that is known: to so many Transformers cuts texts for those who
                ask it to, unless the files tell another number. Those of an imported checkpoint stay as they are.
        """
        files = {**self.beside, **self.files}
        if limit is None or _CONFIG not in files or self.special is None:
            return files
        settings = json.loads(files[_CONFIG])
        if "model_max_length" not in settings:
            files[_CONFIG] = json.dumps({**settings, "model_max_length": limit}, indent=2, ensure_ascii=False).encode()
        return files


def tokenizer_files(directories: Iterable[Path]) -> dict[str, Path]:
    """Those of the first directory that has any, by name: of a link the file that it leads to."""
    for directory in directories:
        names = dict.fromkeys((*FILES, main_file(directory).name))
        if found := {name: directory / name for name in names if (directory / name).is_file()}:
            return found
    return {}


def is_of_tokenizer(name: str) -> bool:
    """Whether a file of a checkpoint is one of a tokenizer, by its name."""
    return name in FILES or name.endswith(".model")


def tokens_of(found: "Checkpoint", run: Mapping[str, Any]) -> CheckpointTokenizer:
    """Finds the tokenizer that an imported checkpoint holds itself; else the one that the run was given, or that of the store
    that it read, where it is still there."""
    held = {name: found.storage.read(found.name, name) for name in found.train_state.files if is_of_tokenizer(name)}
    if held:
        return CheckpointTokenizer(held)
    given, store = given_to(run), store_of(run)
    if given is not None:
        return _given(Path(given))
    if store is None:
        return CheckpointTokenizer()
    file, path = Path(store) / read_manifest(store).tokenizer.file, store
    tokenizer = Tokenizer.load(file, read_manifest(path).tokenizer.end_of_document)
    files = {name: path.read_bytes() for name, path in tokenizer_files([file.parent]).items()}
    return CheckpointTokenizer(files, tokenizer.special_tokens(), tokenizer.end_of_document_id)


def tokenizer_path(found: "Checkpoint", run: Mapping[str, Any]) -> Path | None:
    """The file or directory of the same tokenizer; None where there is none on this machine."""
    if any(map(is_of_tokenizer, found.train_state.files)):
        directory = Path(found.where)
        return directory if directory.is_dir() else None
    given, store = given_to(run), store_of(run)
    if given is not None:
        return Path(given)
    return None if store is None else Path(store) / read_manifest(store).tokenizer.file


def given_to(run: Mapping[str, Any]) -> str | None:
    """The tokenizer that a run was given, where it is still there."""
    path = followed((run.get("data") or {}).get("tokenizer") or "")
    return path if path and Path(path).exists() else None


def store_of(run: Mapping[str, Any]) -> str | None:
    """The first prepared store that a run read and that is still there."""
    return next((path for path in map(followed, _stores(run)) if (Path(path) / STORE_MANIFEST).is_file()), None)


def unset_of(run: Mapping[str, Any]) -> str:
    """Says which variables have to be set for a run's tokenizer and stores to be found; "" where it is not that."""
    paths = [path for path in ((run.get("data") or {}).get("tokenizer"), *_stores(run)) if path and unset_in(path)]
    if not paths:
        return ""
    names = list(dict.fromkeys(name for path in paths for name in unset_in(path)))
    return (
        f"its run read {', '.join(paths)}, and {' and '.join(names)} {'is' if len(names) == 1 else 'are'} not set here"
    )


def _stores(run: Mapping[str, Any]) -> list[str]:
    data = run.get("data") or {}
    paths = [data.get("path"), *(source.get("path") for source in data.get("blend") or ())]
    return [path for path in paths if path]


def _given(path: Path) -> CheckpointTokenizer:
    """Finds a tokenizer by its file or directory, with what stands beside it."""
    tokenizer = Tokenizer.load(path)
    if path.suffix == ".json" and path.name not in FILES:
        files = {"tokenizer.json": path}
    else:
        files = tokenizer_files([path if path.is_dir() else path.parent])
    content = {name: file.read_bytes() for name, file in files.items()}
    alone = content.keys() == {"tokenizer.json"} and Beside.of(files["tokenizer.json"]).is_empty
    beside = tokenizer.companions() if alone else {}
    return CheckpointTokenizer(content, tokenizer.special_tokens(), tokenizer.end_of_document_id, beside)
