"""Places of texts in files that are read in parts."""

import json

import pytest

from dist_plm.core.errors import DataError
from dist_plm.data.sources import sources
from dist_plm.spec.inference.evaluations import EvaluationDataConfig
from dist_plm.tasks.evaluate.passages import texts_of_files


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(sources, "_MIB", 100)


def test_texts_are_called_by_their_lines_in_the_whole_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {i}"}) + "\n\n" for i in range(50)))
    found = list(texts_of_files(EvaluationDataConfig(text=str(path))))
    assert found == [(f"{path}:{2 * i + 1}", f"text {i}") for i in range(50)]


def test_a_broken_record_is_named_by_its_line_in_the_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a line of some length\n" * 40 + b"broken \xff\n")
    with pytest.raises(DataError, match=r"a\.txt, line 41: not UTF-8"):
        list(texts_of_files(EvaluationDataConfig(text=str(path), document="line")))
