"""Finds what the run at train.init_from tells of what goes with its weights."""

from dist_plm.checkpoint.storage import open_storage
from dist_plm.core.errors import DataError
from dist_plm.interop.hf.checkpoint_tokenizer import tokenizer_path, unset_of
from dist_plm.train.startup.resume import find_at, init_from_remedies


def tokenizer_of_run(path: str) -> str:
    """Gives the path of the tokenizer that the run or checkpoint at `path` learned with.

    Raises:
        CheckpointError: there is no usable checkpoint.
        DataError: its tokenizer is not on this machine.
    """
    with init_from_remedies(path):
        found = find_at(path, open_storage(path), None, verify=False)
        run = found.run_settings()
    tokenizer = tokenizer_path(found, run)
    if tokenizer is None:
        told = f", as {unset_of(run)}" if unset_of(run) else ""
        raise DataError(
            f"train.init_from = {path}: the tokenizer of that run is not where it was{told}: give it as data.tokenizer, a file "
            "or a directory"
        )
    return str(tokenizer)
