import pytest

from tests.config.broken import problems


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model__hidden": 30}, ["model.hidden = 30", "model.heads = 4", "model.head_size"]),
        ({"model__kv_heads": 3}, ["model.heads = 4", "model.kv_heads = 3"]),
        ({"model__position": "rotary", "model__hidden": 12}, ["model.position = 'rotary'", "3, which is odd"]),
        ({"model__max_positions": 8}, ["data.sequence_length = 16", "model.max_positions = 8", "learned"]),
        (
            {"model__max_positions": 8, "model__position": "sinusoidal"},
            ["data.sequence_length = 16", "model.max_positions = 8", "sinusoidal"],
        ),
        ({"model__rotary_base": 5e5}, ["model.rotary_base = 500000.0 has no effect", "model.position = 'learned'"]),
        ({"model__vocab_size": 50}, ["model.vocab_size = 50", "vocabulary of 60", "model.vocab_size=null"]),
        ({"objective__reset_positions": True}, ["objective.reset_positions = true needs objective.document_mask=true"]),
        (
            {"objective__reset_positions": True, "objective__document_mask": True, "model__position": "none"},
            ["objective.reset_positions = true has no effect with model.position = 'none'"],
        ),
    ],
)
def test_one_sentence_with_key_value_and_remedy(changes, parts):
    (problem,) = problems(vocab_size=60, **changes)
    for part in parts:
        assert part in problem


@pytest.mark.parametrize(
    "changes",
    [
        {"model__hidden": 30, "model__head_size": 8},
        {"model__position": "rotary", "model__max_positions": 8, "model__rotary_base": 5e5},
        {"model__vocab_size": 61},
        {"objective__reset_positions": True, "objective__document_mask": True},
    ],
)
def test_what_fits_passes(changes):
    assert problems(vocab_size=60, **changes) == []
