"""Builds what a finished run ends with on the screen: how it went, and commands worth trying next."""

import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from dist_plm.checkpoint.lookup import best_checkpoint
from dist_plm.checkpoint.storage import BEST, open_storage
from dist_plm.config.credentials import FromEnvironment
from dist_plm.core.errors import reason_of
from dist_plm.core.installed import hydra_quoted, start_words, typed, typed_setting
from dist_plm.data.store.manifest import NAME as MANIFEST
from dist_plm.data.store.manifest import read_manifest
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.monitor.run_summary import render_summary, summarise
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.rules.sections import may_lack_names
from dist_plm.spec.schema import SamplesConfig
from dist_plm.spec.schema_finetune import LabelledDataConfig
from dist_plm.spec.schema_run import CheckpointConfig
from dist_plm.train.ending.proposed_runs import ProposedRun


def _inferences(run_dir: Path, trained: str, model: ModelConfig, data: SamplesConfig) -> Iterator[str]:
    """Yields how to measure a model, on a store or on labelled rows, and how to let it write, or else to take it to Hugging
    Face: what works with what the run read."""
    run = _word("from", trained)
    if isinstance(data, LabelledDataConfig):
        names = ",".join(hydra_quoted(name, '"') for name in data.header if may_lack_names(data.to_measure))
        header = [f"data.header={shlex.quote(f'[{names}]')}"] if names else []
        yield " ".join([typed("evaluate"), run, "on=task", _word("data.rows", data.to_measure), *header, "samples=3"])
        if model.head == "language_model":
            yield f"{typed('generate')} {run} prompt='To be'"
        elif model.is_in_hugging_face:
            yield f"{typed('convert')} {run} {_word('to', f'{run_dir}/hf')} format=hf"
        return
    if not (Path(data.to_measure) / MANIFEST).is_file():
        return  # a bare Megatron pair, whose tokenizer is not known
    if (split := _measurable(data)) is not None:
        asked = "on=objective " if model.has_decoder else "limit=20 " if model.is_encoder else ""
        yield f"{typed('evaluate')} {run} {asked}{_word('data.path', data.to_measure)}{split}"
    if not model.is_encoder:
        yield f"{typed('generate')} {run} prompt='To be' temperature=0.8"


def _measurable(data: SamplesConfig) -> str | None:
    """Names the first split with text for a sample, as a setting where evaluations would read another; None without one."""
    manifest = read_manifest(data.to_measure)
    for name in ("test", "validation", "train"):
        if manifest.split(name).tokens > data.sequence_length:
            return "" if name == "test" else f" data.split={name}"
    return None


def _word(key: str, value: str) -> str:
    """A setting as one word of shell, with references to the environment in place of credentials."""
    return typed_setting(key, value.written if isinstance(value, FromEnvironment) else value)


def _best(checkpoints: str, measure: str | None) -> str | None:
    """Tells the best checkpoint by its step and measure; None where the run keeps none."""
    found = None if measure is None else best_checkpoint(open_storage(checkpoints))
    if found is None:
        return None
    value = found.train_state.evaluation.get(measure or "", math.nan)
    return f"step {found.train_state.step:,}, {measure} {value:.4g}: {found.storage.where(BEST)}"


def closing_summary(
    run_dir: Path,
    kept: CheckpointConfig,
    started: Sequence[str],
    model: ModelConfig,
    data: SamplesConfig,
    proposed: Sequence[ProposedRun] = (),
) -> str:
    """Builds what a run ends with on the screen, with commands worth trying next.

    Args:
        kept: tells where its checkpoints are, and whether the best is among them.
        started: the command that it was started by, and its settings.
        data: what it has read.
        proposed: runs that differ from it.
    """

    def again(run: ProposedRun) -> str:
        """The run with changes, which come in place of what is on the command line, and of its grid."""
        changed = {change.partition("=")[0] for change in ("run.dir=", "parallel=", *run.changes)}
        named = ((override, override.partition("=")[0]) for override in overrides)
        kept = [override for override, name in named if name not in changed and not name.startswith("parallel.")]
        begins = ["python"] if run.processes == 1 else ["torchrun", "--nproc-per-node", str(run.processes)]
        return shlex.join([*begins, *start_words(command, relative=True), *kept, *run.changes])

    command, *overrides = started
    checkpoints = kept.dir or f"{run_dir}/checkpoints"
    trained, best = kept.dir or str(run_dir), _best(checkpoints, kept.keep_best)
    if best is not None and not isinstance(kept.dir, FromEnvironment):
        trained = f"{checkpoints}/{BEST}"
    commands = (
        f"{typed('report')} {shlex.quote(str(run_dir))}",
        *(_inferences(run_dir, trained, model, data) if open_storage(checkpoints).steps() else ()),
        *map(again, proposed if overrides else ()),  # a frozen run has no settings that could be repeated
    )
    try:
        records = read_metrics(run_dir / "metrics.jsonl")
    except OSError as error:
        return f"{run_dir} is finished; how it went cannot be read: {reason_of(error)}"
    if not records:
        return f"{run_dir} is finished; its metrics.jsonl holds no record"
    return render_summary(summarise(run_dir, records, best=best, next_commands=commands))
