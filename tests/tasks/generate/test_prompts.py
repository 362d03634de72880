from dataclasses import replace

import pytest

from dist_plm.core.errors import ConfigError
from dist_plm.spec.families.gpt import GPTConfig
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.tasks.generate.prompts import read_prompts, room_for, shortened

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


def test_a_prompt_that_leaves_no_room_loses_its_beginning_where_it_is_measured() -> None:
    model = GPTConfig(layers=1, hidden=8, heads=1, max_positions=8, position="learned")
    asked, prompt = GenerateConfig(max_new_tokens=8), [*range(8)]
    assert shortened(prompt[:7], 8, model) == tuple(range(7)), "there is room for a token"
    assert shortened(prompt, 8, model) == (4, 5, 6, 7)
    assert shortened(prompt, 1, model) == tuple(range(1, 8))
    assert room_for("f, line 3", len(shortened(prompt, 8, model)), asked, model) == 4
    with pytest.raises(ConfigError, match="f, line 3 has 8 tokens, and the model 8 positions for it and its answer"):
        room_for("f, line 3", 8, asked, model)
    assert shortened(prompt, 8, replace(model, position="rotary")) == tuple(prompt)
