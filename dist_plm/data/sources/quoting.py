"""Judges by the whole of a delimited file what quotes are in it.

Files of both kinds are published: RFC 4180's, in which a quote at the beginning of a field holds the field together, over
line ends too, and those of GLUE or Common Voice, in which quotes are text. Read as the other kind either gives wrong
documents, and a single stray quote can swallow thousands of rows without any error.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dist_plm.core.errors import DataError
from dist_plm.data.sources.delimited import NumberedLine, Quoting, delimiter_of, rows, text_lines
from dist_plm.data.sources.lines import raw_lines
from dist_plm.data.sources.records import MAX_RECORD_BYTES
from dist_plm.data.sources.slices import Slice

#: Lines inside a quoted field that each look like a row, which make it implausible. Text has commas; tabs hardly ever.
_IMPLAUSIBLE = {",": 10, "\t": 2}
_IMPLAUSIBLE_SHARE = 0.9
#: In a table of one column every line looks like a row; there long fields are implausible where hardly any row is quoted.
_RARELY_QUOTED_SHARE = 0.1
#: Rows that fields seem to have swallowed, in a file that is faultless if quotes are text.
_SWALLOWED = 3


#: What a setting can say of quotes.
_SETTING = "say in data.sources what quotes are, with quoting: none (text) or quoting: minimal (they hold fields together), or "


def find_quoting(part: Slice, remedy: str = _SETTING) -> Quoting:
    """Takes what `part.source.quoting` says or, for auto, what the file looks like.

    Args:
        remedy: what a person can do beside mending the line.
    Raises:
        DataError: it looks like neither, since a quoted field holds many rows; or it cannot be read.
    """
    if part.source.quoting != "auto":
        return part.source.quoting
    if not any(line is not None and b'"' in line for _, line in raw_lines(part)):
        return "minimal"
    if _is_beyond_doubt(part):
        return "minimal"
    balance = _weigh(part, "minimal")
    if balance.is_escaped and not (escaped := _weigh(part, "backslash")).broken and not escaped.implausible:
        return "backslash"
    return _judge(part, balance, remedy)


def _is_beyond_doubt(part: Slice) -> bool:
    """Whether all rows are right by RFC 4180, and no field in quotes is full of what could be rows: what nearly all files
    are, and is told in a third of the time that weighing takes."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    delimiter = delimiter_of(part)
    # As `text_lines`, but for numbers and line ends, which cost as much as the parser itself.
    lines = ("\n" if line is None else line.decode(errors="surrogateescape") for _, line in raw_lines(part))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    balance, before = _Balance(), 0
    try:
        for fields in reader:
            balance.width = balance.width or len(fields)
            if len(fields) not in (0, balance.width):
                return False
            if reader.line_num - before > 2:
                for text in fields:
                    _look_inside(text.split("\n")[1:-1], balance, delimiter, (before + 1, reader.line_num))
            before = reader.line_num
    except csv.Error:
        return False
    return not balance.implausible and (balance.uneven_inside > 0 or balance.swallowed < _SWALLOWED)


@dataclass(slots=True)
class _Balance:
    """Counts what a file looks like under one kind of quoting and, line for line, without any.

    Attributes:
        lines: that are not blank.
        quoted: lines with a field in quotes, begun and ended on the line.
        uneven: lines that have not as many fields as the header, if quotes are text.
        broken: rows that are wrong, or have not as many fields as the header.
        escaped: broken rows with a quote behind a backslash.
        swallowed: lines within fields that look like rows.
        uneven_inside: those that do not.
        implausible: fields of which nearly all lines do, and many: the first and the last line of each.
    """

    width: int = 0
    lines: int = 0
    quoted: int = 0
    uneven: int = 0
    broken: int = 0
    escaped: int = 0
    swallowed: int = 0
    uneven_inside: int = 0
    implausible: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_escaped(self) -> bool:
        return self.broken > 0 and self.escaped == self.broken

    @property
    def is_mostly_quoted(self) -> bool:
        return self.quoted * 2 > self.lines - 1


def _weigh(part: Slice, quoting: Quoting) -> _Balance:
    balance, delimiter = _Balance(), delimiter_of(part)
    for row in rows(_counted(text_lines(part, []), balance, delimiter), delimiter, quoting):
        if balance.width == 0:
            balance.width = len(row.fields)
            continue
        if row.error is not None or len(row.fields) != balance.width:
            balance.broken += 1
            balance.escaped += any('\\"' in line for _, line in row.lines)
        elif len(row.lines) > 2:
            lines = (row.line, row.lines[-1][0])
            _look_inside([line for _, line in row.lines[1:-1]], balance, delimiter, lines)
    return balance


def _counted(lines: Iterator[NumberedLine], balance: _Balance, delimiter: str) -> Iterator[NumberedLine]:
    whole = re.compile(rf'(?:^|{delimiter})"(?:[^"]|"")*+"(?:{delimiter}|$)')
    for number, line in lines:
        if line.strip():
            balance.lines += 1
            if '"' in line:
                balance.quoted += whole.search(line.rstrip("\n")) is not None
            if balance.width and line.count(delimiter) != balance.width - 1:
                balance.uneven += 1
        yield number, line


def _look_inside(inside: list[str], balance: _Balance, delimiter: str, lines: tuple[int, int]) -> None:
    """At lines within a field, or within a row but for its first and last line, which goes over `lines` of the file."""
    filled = [line for line in inside if line.strip()]
    alike = sum(line.count(delimiter) == balance.width - 1 for line in filled)
    if balance.width == 1 and len(filled) < len(inside):
        return  # paragraphs
    balance.swallowed += alike if balance.width > 1 else 0
    balance.uneven_inside += len(filled) - alike
    if alike >= _IMPLAUSIBLE[delimiter if balance.width > 1 else ","] and alike >= _IMPLAUSIBLE_SHARE * len(filled):
        balance.implausible.append(lines)


def _judge(part: Slice, balance: _Balance, remedy: str) -> Quoting:
    if not balance.is_mostly_quoted and balance.uneven == 0 and _is_wrong(balance):
        return "none"
    often = balance.width == 1 and balance.quoted + len(balance.implausible) > _RARELY_QUOTED_SHARE * balance.lines
    if balance.implausible and not often:
        first, last = balance.implausible[0]
        raise DataError(
            f"{part.path}, line {first}: a quote opens there that closes on line {last}, and the lines between look like "
            f"rows of the table: {remedy}mend the line"
        )
    if not balance.is_mostly_quoted and balance.uneven < balance.broken:
        return "none"
    return "minimal"


def _is_wrong(balance: _Balance) -> bool:
    return balance.broken > 0 or balance.swallowed >= _SWALLOWED
