"""Shows which samples were the worst of a run, where they can be read: those of the last step that was logged, and of each step
that the run went back from."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dist_plm.config.credentials import mask
from dist_plm.core.errors import described
from dist_plm.core.installed import typed, typed_setting
from dist_plm.core.parsing import is_number

#: Gives the samples of a run, from one number to before another, as text for people. What it raises is told on the page.
ReadSamples = Callable[[Path, int, int], Sequence[str]]

#: Of a microbatch; of a run, whose last rollbacks count.
_SAMPLES_SHOWN, _ROLLBACKS_SHOWN = 4, 5


class WorstMicrobatch(NamedTuple):
    """The microbatch of a step that had the largest loss, by the numbers of its first and last sample."""

    title: str
    first: int
    last: int


def worst_of(records: Sequence[Mapping[str, Any]]) -> list[WorstMicrobatch]:
    """Finds the worst microbatches of a run: that of the last record, then those of the last rollbacks, newest first."""
    last = [_last_of(records[-1])] if records else []
    healed = [_healed_of(record) for record in records if "heal/rollbacks" in record][-_ROLLBACKS_SHOWN:]
    return [worst for worst in (*last, *reversed(healed)) if worst is not None]


def worst_samples(
    run_dir: Path, records: Sequence[Mapping[str, Any]], read: ReadSamples | None
) -> list[dict[str, Any]]:
    """Gives for each of the worst microbatches a `title`, `rows` of samples, and a `note` with the command that shows all.

    Args:
        read: None where a page does without samples, as one that is made while a run goes on.
    """
    return [_shown(run_dir, worst, read) for worst in worst_of(records)]


def _shown(run_dir: Path, worst: WorstMicrobatch, read: ReadSamples | None) -> dict[str, Any]:
    range_asked = shlex.quote(f"samples=[{worst.first}, {worst.last + 1}]")
    command = mask(f"{typed('samples')} {typed_setting('run', str(run_dir))} {range_asked}")
    shown = {"title": worst.title, "rows": [], "note": f"{command} shows them."}
    if read is None:
        return shown
    stop = min(worst.last + 1, worst.first + _SAMPLES_SHOWN)
    try:
        texts = read(run_dir, worst.first, stop)
    except Exception as error:  # data that were moved are no reason for a page to fail
        return {
            **shown,
            "note": f"They cannot be read here ({mask(described(error))}). Where the data are, {shown['note']}",
        }
    rows = [{"sample": f"{number:,}", "text": text} for number, text in enumerate(texts, start=worst.first)]
    return {**shown, "rows": rows, "note": f"{command} shows them whole."}


def _last_of(record: Mapping[str, Any]) -> WorstMicrobatch | None:
    return _named(f"The worst microbatch of step {record['step']:,}", record, "worst/")


def _healed_of(record: Mapping[str, Any]) -> WorstMicrobatch | None:
    noticed = record.get("heal/noticed")
    if not is_number(noticed):
        return None
    return _named(f"The worst microbatch of step {noticed:,}, from which the run went back", record, "heal/worst_")


def _named(title: str, record: Mapping[str, Any], before: str) -> WorstMicrobatch | None:
    """Reads what stands in a record under names that begin alike; None where no run wrote that."""
    first, last = (_number_of(record.get(f"{before}{name}")) for name in ("first_sample", "last_sample"))
    if first is None or last is None or first > last:
        return None
    loss = record.get(f"{before}loss")
    told = f", of loss {loss:.4g}" if is_number(loss) else ""
    return WorstMicrobatch(f"{title}{told}: samples {first:,} to {last:,}", first, last)


def _number_of(value: Any) -> int | None:
    return int(value) if is_number(value) and 0 <= value < 2**62 and float(value).is_integer() else None
