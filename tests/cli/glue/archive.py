"""Small files in the layouts of GLUE's archive, whose labels follow from their words."""

import random
from pathlib import Path

_GOOD, _BAD = ("good", "lovely"), ("bad", "boring")
_NLI = {"good": "entailment", "bad": "contradiction", "not": "neutral"}


def _text(draw: random.Random, said: str) -> str:
    word = said if said == "not" else draw.choice(_GOOD if said == "good" else _BAD)
    return f"the {draw.choice(('film', 'play'))} was {word}{draw.choice(('', ' a', ' very'))}"


def _row(number: int, two: str, first: str, second: str, said: str) -> dict[str, list[str]]:
    entailed = "entailment" if said == "good" else "not_entailment"
    parses, four = ["( a b )"] * 4, ["entailment"] * 4
    return {
        "CoLA": ["gj04", two, "*" if two == "0" else "", first],
        "SST-2": [first, two],
        "MRPC": [two, str(number), str(number + 1), first, f'he said "{second}'],  # a stray quote, as there are some
        "STS-B": [
            str(number),
            "news",
            "file",
            "2012",
            "1",
            "none",
            "none",
            first,
            second,
            "4.2" if two == "1" else "0.8",
        ],
        "QQP": [str(number), "1", "2", first, f'"{second}', two],
        "MNLI": [str(number), "31n", "31e", "fiction", *parses, first, second, *four[:1], _NLI[said]],
        "QNLI": [str(number), first, second, entailed],
        "RTE": [str(number), first, second, entailed],
        "WNLI": [str(number), first, second, two],
    }


HEADERS = {
    "SST-2": "sentence label",
    "MRPC": "Quality|#1 ID|#2 ID|#1 String|#2 String",
    "STS-B": "index genre filename year old_index source1 source2 sentence1 sentence2 score",
    "QQP": "id qid1 qid2 question1 question2 is_duplicate",
    "MNLI": "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2 label1 gold_label",
    "QNLI": "index question sentence label",
    "RTE": "index sentence1 sentence2 label",
    "WNLI": "index sentence1 sentence2 label",
}


def make_archive(folder: Path, rows: int = 24) -> Path:
    """Writes train.tsv and dev.tsv of all nine tasks."""
    names = [*HEADERS, "CoLA"]
    for seed, split in enumerate(("train", "dev", "dev_mismatched")):
        draw = random.Random(seed)
        for name in names:
            kinds = ("good", "bad", "not") if name == "MNLI" else ("good", "bad")
            count = rows if split == "train" else rows // 2
            lines = ["\t".join(_made(i, name, kinds, draw)) for i in range(count)]
            header = HEADERS.get(name)
            if header is not None:
                lines.insert(0, "\t".join(header.split("|" if "|" in header else " ")))
            stem = {"MNLI": {"dev": "dev_matched"}}.get(name, {}).get(split, split)
            if split == "dev_mismatched" and name != "MNLI":
                continue
            place = folder / name
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{stem}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def _made(number: int, name: str, kinds: tuple[str, ...], draw: random.Random) -> list[str]:
    said = kinds[number % len(kinds)]
    two = "1" if said == "good" else "0"
    return _row(number, two, _text(draw, said), _text(draw, "good"), said)[name]
