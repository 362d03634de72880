"""The table of what works says of every combination one of two things, and docs/support.md shows it as it is."""

from pathlib import Path

from tools.support_tables import AXES, ENGINES, OPTIMIZERS, PRECISIONS, TEST, ZERO_STAGES, combinations, render
from tools.write_tables import parts

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
    assert found["megatron-1-data-fp8-adamw"] is found["deepspeed-3-tensor-fp8-lamb"] is None


def test_what_works_on_gpus_alone_is_marked():
    on_cpu = {cell.name: cell.on_cpu for cell in combinations() if cell.refusal is None}
    assert "refused by DeepSpeed on cluster.device = 'cpu'" in (on_cpu["deepspeed-1-data-fp16-adamw"] or "")
    assert on_cpu["megatron-1-data-fp16-adamw"] is on_cpu["deepspeed-1-data-bf16-adamw"] is None
    assert "| adamw, adam, lamb, sgd, adafactor, muon: on a GPU (" in render()


def test_each_refusal_is_a_footnote_once_and_the_test_exists():
    table = render()
    for sentence in {cell.refusal for cell in combinations() if cell.refusal}:
        assert table.count(sentence) == 1
    assert (ROOT / TEST).is_file()
    assert table.count("\n| ") == 1 + len(ENGINES) * len(ZERO_STAGES) * len(AXES)


def test_the_page_shows_it():
    """`python -m tools.write_tables` writes it."""
    assert parts("support table")[1].strip() == render().strip()
