"""The table of what works says of every combination one of two things, and the README shows it as it is."""

from pathlib import Path

import pytest

from tools.support_tables import AXES, ENGINES, OPTIMIZERS, PRECISIONS, TEST, ZERO_STAGES, combinations, render

ROOT = Path(__file__).resolve().parents[2]


def test_every_combination_is_in_it_once():
    cells = list(combinations())
    expected = len(ENGINES) * len(ZERO_STAGES) * len(AXES) * len(PRECISIONS) * len(OPTIMIZERS)
    assert len({cell.name for cell in cells}) == len(cells) == expected


def test_what_is_known_to_work_and_to_be_refused():
    found = {cell.name: cell.refusal for cell in combinations()}
    assert found["megatron-1-pipeline-fp16-lamb"] is None
    assert found["deepspeed-3-tensor + sequence-fp32-lamb"] is None
    assert "Megatron-FSDP" in (found["megatron-2-data-fp32-adamw"] or "")
    assert "a pipeline runs several forward passes" in (found["deepspeed-2-pipeline-bf16-sgd"] or "")
    assert "Transformer Engine cannot be imported" in (found["megatron-1-data-fp8-adamw"] or "")
    assert "set engine=megatron" in (found["deepspeed-1-data-fp8-adamw"] or "")


def test_each_refusal_is_a_footnote_once_and_the_test_exists():
    table = render()
    for sentence in {cell.refusal for cell in combinations() if cell.refusal}:
        assert table.count(sentence) == 1
    assert (ROOT / TEST).is_file()
    assert table.count("\n| ") == 1 + len(ENGINES) * len(ZERO_STAGES) * len(AXES)


def test_the_readme_shows_it():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = "<!-- support table: begin -->\n", "<!-- support table: end -->"
    if begin not in readme:
        pytest.fail("README.md lacks the table: put tools.support_tables.render() between its two markers")
    assert readme.partition(begin)[2].partition(end)[0].strip() == render().strip()
