"""Tells what a page shows of a run beside its curves: settings and where they come from, starts, what happened, samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_plm.config.credentials import mask
from dist_plm.config.decode import show
from dist_plm.core.parsing import is_number, load_json
from dist_plm.core.regular import open_regular
from dist_plm.monitor.metrics_file import RESUMES, begun_after
from dist_plm.monitor.report import Run
from dist_plm.monitor.report_page.packed_columns import columns_of, elapsed_seconds
from dist_plm.monitor.report_page.run_tables import tables_of
from dist_plm.monitor.report_page.worst_samples import ReadSamples, worst_samples

#: Beside metrics.jsonl: who set each value, and when and where the run was started.
ORIGINS, STARTS = "origins.json", "starts.jsonl"
#: Where a run keeps what its model says of validation rows.
PREDICTIONS = "predictions"
#: Of what is shown of files that grow without bound.
_MOST_BYTES = 8 * 2**20
_SAMPLES_SHOWN, _CHARACTERS_SHOWN, _FILES_SHOWN, _EVENTS_SHOWN = 20, 2_000, 8, 500


def facts_of(run: Run, *, most_values: int, read: ReadSamples | None = None) -> dict[str, Any]:
    """All that the page shows of a run, fit for JSON.

    Args:
        read: reads samples that the run learned from.
    """
    seconds = elapsed_seconds(run.records, begun_after(run.path))
    return {
        "name": str(run.path),
        "settings": settings_of(run),
        "starts": starts_of(run.path),
        "events": events_of(run.records),
        "tables": tables_of(run.path),
        "samples": [*worst_samples(run.path, run.records, read), *samples_of(run.path)],
        "columns": columns_of(run.records, most=most_values, seconds=seconds),
    }


def settings_of(run: Run) -> list[list[str]]:
    """Rows of key, value and origin, credentials masked; the origin is empty where it is not known."""
    origins = _json_of(run.path / ORIGINS)
    known: Mapping[str, Any] = origins if isinstance(origins, dict) else {}
    return [[name, mask(show(value)), mask(str(known.get(name, "")))] for name, value in run.settings.items()]


def starts_of(run_dir: Path) -> list[dict[str, Any]]:
    """Each start of a run: when, where, on how many ranks, and after which step it went on (None where that is not known)."""
    resumed = {str(line.get("id")): line.get("step") for line in _lines_of(run_dir / RESUMES)}
    found = []
    for number, line in enumerate(_lines_of(run_dir / STARTS), start=1):
        step = resumed.get(str(line.get("id")), 0 if number == 1 else None)
        found.append(
            {
                "number": number,
                "time": str(line.get("time", "")),
                "node": str(line.get("node", "")),
                "ranks": str(line.get("ranks", "")),
                "job": str(line.get("job") or ""),
                "step": step if isinstance(step, int) and not isinstance(step, bool) else None,
            }
        )
    return found


def events_of(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Steps at which the run healed itself, was alarmed, or found a rank slow or faulty, and what it said of that."""
    found = []
    for record in records:
        told = {name.removeprefix("heal/"): value for name, value in record.items() if name.startswith("heal/")}
        if told:
            kind = "rollback" if "rollbacks" in told else "alarm"
            found.append({"step": record["step"], "kind": kind, "text": _healing_words(told)})
        if "slow/rank" in record:
            text = f"rank {show(record['slow/rank'])} takes {show(record.get('slow/ratio'))} times as long as its peers"
            found.append({"step": record["step"], "kind": "alarm", "text": text})
        for what in ("replicas", "passes"):
            if f"{what}/differing" in record:
                found.append(
                    {"step": record["step"], "kind": "alarm", "text": f"{what} differ between ranks: see the log"}
                )
    return found[-_EVENTS_SHOWN:]


#: What is told of a rollback, by the names of its numbers.
_HEALING = {
    ("noticed",): "step {} was bad",
    ("step",): "the run went back to step {}",
    ("skipped_samples",): "{} samples are left out so far",
    ("worst_loss",): "its worst microbatch had a loss of {}",
    ("worst_first_sample", "worst_last_sample"): "samples {} to {} were in it",
    ("rollbacks",): "rollback {} of the run",
    ("alarms",): "bad steps that the run went on from: {}",
}


def _healing_words(told: Mapping[str, Any]) -> str:
    """Says what a record tells of healing; names that mean nothing here as they are."""
    known = {names: words for names, words in _HEALING.items() if all(is_number(told.get(name)) for name in names)}
    said = [words.format(*(_shown(told[name]) for name in names)) for names, words in known.items()]
    meant = {name for names in known for name in names}
    return ", ".join([*said, *(f"{name} {show(value)}" for name, value in told.items() if name not in meant)])


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"


def samples_of(run_dir: Path) -> list[dict[str, Any]]:
    """The first samples of each file of predictions, as rows of text."""
    found = []
    for path in _predictions_of(run_dir)[:_FILES_SHOWN]:
        rows = [
            {str(name): _cut(value if isinstance(value, str) else show(value)) for name, value in line.items()}
            for line in _lines_of(path, _SAMPLES_SHOWN)
        ]
        if rows:
            found.append({"title": f"{path.name} ({len(rows)} of its first rows)", "rows": rows, "note": ""})
    return found


def _predictions_of(run_dir: Path) -> list[Path]:
    try:
        return sorted((run_dir / PREDICTIONS).glob("*.jsonl"))
    except OSError:  # no directory that this user may read, or one that is being removed
        return []


def _cut(text: str) -> str:
    return text if len(text) <= _CHARACTERS_SHOWN else f"{text[:_CHARACTERS_SHOWN]}…"


def _lines_of(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """Mappings that the lines of a file hold; what cannot be read is not shown."""
    found = []
    for line in _bytes_of(path).splitlines():
        try:
            value = load_json(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
        if most is not None and len(found) == most:
            break
    return found


def _json_of(path: Path) -> Any:
    try:
        return load_json(_bytes_of(path))
    except ValueError:
        return None


def _bytes_of(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(_MOST_BYTES)
    except (OSError, ValueError):
        return b""
