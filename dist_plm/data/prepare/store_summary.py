"""The table at the end of a preparation: what came in, what each stage removed and why, what came out."""

from collections.abc import Sequence
from pathlib import Path

from dist_plm.data.store.manifest import SPLITS, Manifest, StageRecord
from dist_plm.spec.prepare.rules import SETTINGS_OF_RULES


def summary(out: Path, manifest: Manifest) -> str:
    """The table, as lines for a person."""
    counts, came_in = manifest.counts, manifest.counts.documents + sum(manifest.counts.rejected.values())
    lines = [
        f"{out}: vocabulary {manifest.tokenizer.vocab_size:,}, tokens stored as {manifest.dtype}",
        f"  {'':<28}{'documents':>12}{'text MB':>10}{'changed':>12}",
        f"  {'came in':<28}{came_in:>12,}{counts.text_bytes / 1e6:>10.2f}",
        *(f"  {'- broken: ' + reason:<28}{-count:>12,}" for reason, count in sorted(counts.rejected.items())),
        *(_row(stage) for stage in manifest.stages),
        f"  {'came out':<28}{'documents':>12}{'text MB':>10}{'tokens':>16}{'bytes/token':>13}",
    ]
    for name in SPLITS:
        record = manifest.split(name)
        ratio = f"{record.text_bytes / record.tokens:.2f}" if record.tokens else "-"
        size = record.text_bytes / 1e6
        lines.append(f"  {name:<28}{record.documents:>12,}{size:>10.2f}{record.tokens:>16,}{ratio:>13}")
    return "\n".join(lines)


def why_nothing_is_left(documents: int, cleaned: Sequence[StageRecord], repeated: Sequence[StageRecord]) -> str:
    """Says what removed documents, and which settings to look at, where none is left to train on.

    Args:
        documents: that came in.
        cleaned, repeated: what rules of cleaning and the search for duplicates removed.
    """
    removed = {stage.name: stage.removed for stage in (*cleaned, *repeated) if stage.removed}
    keys = ["data.sources", "data.split"] if not removed or documents > sum(removed.values()) else []
    if any(stage.removed for stage in cleaned):
        named = (f"clean.{key}" for rule, own in SETTINGS_OF_RULES.items() if rule in removed for key in own)
        keys += ["clean.rules", *named]
    if any(stage.removed for stage in repeated):
        keys.append("dedup")
    told = ", ".join(f"{name} removed {count:,}" for name, count in removed.items())
    return f"{told}{'; ' if told else ''}check {' and '.join(keys)}"


def _row(stage: StageRecord) -> str:
    changed = f"{stage.changed:>12,}" if stage.changed else ""
    megabytes = f"{-stage.removed_bytes / 1e6:.2f}".replace("-0.00", "0.00")
    return f"  {'- ' + stage.name:<28}{-stage.removed:>12,}{megabytes:>10}{changed}".rstrip()
