"""Builds what a finished run ends with on the screen: how it went, and commands worth trying next."""

import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from dist_plm.checkpoint.lookup import best_checkpoint
from dist_plm.checkpoint.storage import BEST, open_storage
from dist_plm.config.credentials import FromEnvironment
from dist_plm.core.errors import reason_of
from dist_plm.core.installed import start_words, typed
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.monitor.run_summary import render_summary, summarise
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.schema_run import CheckpointConfig


def _inferences(run_dir: Path, trained: str, model: ModelConfig, store: str, *, of_rows: bool) -> Iterator[str]:
    """Yields how to measure a model, on a store or on labelled rows, and how to let it write, or else to take it to Hugging
    Face."""
    run = _word("from", trained)
    if of_rows:
        yield f"{typed('evaluate')} {run} on=task {_word('data.rows', store)} samples=3"
        if model.head == "language_model":
            yield f"{typed('generate')} {run} prompt='To be'"
        else:
            yield f"{typed('convert')} {run} to={shlex.quote(f'{run_dir}/hf')} format=hf"
        return
    asked = "on=objective " if model.has_decoder else "limit=20 " if model.is_encoder else ""
    yield f"{typed('evaluate')} {run} {asked}{_word('data.path', store)}"
    if not model.is_encoder:
        yield f"{typed('generate')} {run} prompt='To be' temperature=0.8"


def _word(key: str, value: str) -> str:
    """A setting as one word of shell, with references to the environment in place of credentials."""
    return shlex.quote(f"{key}='{value.written}'" if isinstance(value, FromEnvironment) else f"{key}={value}")


def _best(checkpoints: str, measure: str | None) -> str | None:
    """Tells the best checkpoint by its step and measure; None where the run keeps none."""
    found = None if measure is None else best_checkpoint(open_storage(checkpoints))
    if found is None:
        return None
    value = found.train_state.evaluation.get(measure or "", math.nan)
    return f"step {found.train_state.step:,}, {measure} {value:.4g}: {found.storage.where(BEST)}"


def closing_summary(
    run_dir: Path, kept: CheckpointConfig, started: Sequence[str], longer: str, model: ModelConfig, store: str
) -> str:
    """Builds what a run ends with on the screen, with commands worth trying next.

    Args:
        kept: tells where its checkpoints are, and whether the best is among them.
        started: the command that it was started by, and its settings.
        longer: the setting of a run that learns for longer.
        store: what it is worth measuring on.
    """

    def again(*changes: str) -> str:
        """The run on two processes with changes, which come in place of what is on the command line, and of its grid."""
        changed = {change.partition("=")[0] for change in ("run.dir=", "parallel=", *changes)}
        named = ((override, override.partition("=")[0]) for override in overrides)
        kept = [override for override, name in named if name not in changed and not name.startswith("parallel.")]
        return shlex.join(["torchrun", "--nproc-per-node", "2", *start_words(command, relative=True), *kept, *changes])

    command, *overrides = started
    trained, best = kept.dir or str(run_dir), _best(kept.dir or f"{run_dir}/checkpoints", kept.keep_best)
    if best is not None and not isinstance(kept.dir, FromEnvironment):
        trained = f"{kept.dir or f'{run_dir}/checkpoints'}/{BEST}"
    commands = (
        f"{typed('report')} {shlex.quote(str(run_dir))}",
        *_inferences(run_dir, trained, model, store, of_rows=command == "finetune"),
        again("parallel.tensor=2", "run.name=tensor2"),
        again("precision=bf16", longer, "run.name=longer"),
    )
    try:
        records = read_metrics(run_dir / "metrics.jsonl")
    except OSError as error:
        return f"{run_dir} is finished; how it went cannot be read: {reason_of(error)}"
    if not records:
        return f"{run_dir} is finished; its metrics.jsonl holds no record"
    return render_summary(summarise(run_dir, records, best=best, next_commands=commands))
