import pytest

from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.tasks.generate.prompts import read_prompts

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("a.txt", BOM + b"To be\r\n\r\nor not", ["To be", "or not"]),
        ("a.txt", "one\u2028line\n".encode(), ["one\u2028line"]),
        ("a.jsonl", BOM + b'{"prompt": "To be"}\r\n', ["To be"]),
        ("a.jsonl", '{"prompt": "one\u2028line"}\n'.encode(), ["one\u2028line"]),
    ],
)
def test_files_of_other_systems_are_read_as_they_are_meant(tmp_path, name, content, prompts) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_prompts(GenerateConfig(prompts=str(tmp_path / name))) == prompts
