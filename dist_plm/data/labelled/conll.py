"""Sentences out of files as CoNLL's shared tasks have them: a word a line, its tag last, blank lines between sentences. Files
whose first word has no tag have none."""

import re
from collections.abc import Iterable, Iterator

from dist_plm.core.errors import DataError, count_of
from dist_plm.data.sources.records import Rejected

#: Begins a line between documents.
_DOCUMENT = "-DOCSTART-"
#: Begins a line that is a comment (CoNLL-U, WNUT), unless it is a word with its tag as others are.
_COMMENT = "# "
_TAG = re.compile(r"O|[BIESLUM]-\S+")


def read_conll(lines: Iterable[tuple[int, str | Rejected]], path: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """The sentences of a file: the line on which each begins, its words and their tags, of which a file may have none.

    Raises:
        DataError: a line is not UTF-8, has no tag where others have one, or more or fewer columns.
    """
    begins, words, tags = 0, [], []
    tagged: bool | None = None
    columns = 0
    known: set[str] = set()
    for number, line in lines:
        if isinstance(line, Rejected):
            raise DataError(f"{path}, line {number}: {line.reason}, {line.detail}; mend the line")
        fields = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or fields[0].startswith(_DOCUMENT):
            if words:
                yield begins, words, tags
            words, tags = [], []
            continue
        if (
            line.startswith(_COMMENT)
            and not words
            and not (len(fields) == (columns or 2) and (fields[-1] in known or _TAG.fullmatch(fields[-1])))
        ):
            continue
        has_tag = len(fields) > 1 and bool(fields[-1].strip())
        tagged = has_tag if tagged is None else tagged
        if has_tag != tagged:
            problem = "has a word and its tag" if tagged else "has a word alone, as those before it"
            raise DataError(
                f"{path}, line {number}: {line.strip()!r} is a word with{'out' if tagged else ''} a tag: a line {problem}"
            )
        columns = columns or len(fields)
        if has_tag and len(fields) != columns:
            raise DataError(
                f"{path}, line {number}: {line.strip()!r} has {count_of(len(fields), 'column')} where those before "
                f"it have {columns}, so "
                "that its last need not be the tag: mend the line"
            )
        begins = begins if words else number
        words.append(fields[0].strip())
        if has_tag:
            tags.append(fields[-1].strip())
            known.add(tags[-1])
    if words:
        yield begins, words, tags
