"""Numbers and small tables as a person reads them in a terminal."""

import itertools
import math
from collections.abc import Sequence

UNICODE_RAMP = "▁▂▃▄▅▆▇█"
ASCII_RAMP = "_.-=+*#@"


def compact(number: float) -> str:
    """Three significant digits and a suffix: 8123 is `8.12k`, 1.5e9 is `1.5B`."""
    if not math.isfinite(number):
        return str(number)
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip("0").rstrip(".") + suffix
    return f"{number:.3g}"


def plain(number: float | None) -> str:
    """Four significant digits, without an exponent where a person would not use one; a dash for None."""
    if number is None:
        return "-"
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e9 else f"{number:.4g}"


def size(num_bytes: float) -> str:
    """`4.2 GiB`, `813 KiB`, `12 bytes`: three digits, never 0 of a unit for what is not nothing."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= 0.9995 * unit:
            return f"{num_bytes / unit:.3g} {name}" if num_bytes < 1000 * unit else f"{num_bytes / unit:,.0f} {name}"
    return "1 byte" if num_bytes == 1 else f"{num_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    """`45s`, `3m05s`, `2h07m`, `4d03h`."""
    if not math.isfinite(seconds):
        return "?"
    total = max(round(seconds), 0)
    for size, part, names in ((86400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if total >= size:
            return f"{total // size}{names[0]}{total % size // part:02d}{names[1]}"
    return f"{total}s"


def sparkline(values: Sequence[float], *, width: int = 40, ramp: str = UNICODE_RAMP) -> str:
    """A curve in one line: the mean of each of at most `width` stretches; `!` where one is not finite."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [len(values) * i // width for i in range(width + 1)]
    means = [_mean(values[low:high]) for low, high in itertools.pairwise(edges)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, span = (min(finite), max(finite) - min(finite)) if finite else (0.0, 0.0)
    span = span if math.isfinite(span) else 0.0
    levels = len(ramp) - 1
    return "".join(
        ramp[round((mean - low) / span * levels) if span else 0] if math.isfinite(mean) else "!" for mean in means
    )


def _mean(values: Sequence[float]) -> float:
    """Infinite where the sum is, or is not defined."""
    try:
        return math.fsum(values) / len(values)
    except (OverflowError, ValueError):
        return math.inf


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length in aligned columns, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
