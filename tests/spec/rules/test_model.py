import pytest

from tests.spec.broken import problems

BERT = {"model__family": "bert", "model__segments": 2, "objective__name": "mlm_nsp"}
T5 = {"model__family": "t5", "objective__name": "span"}
ELECTRA = {"model__family": "electra", "model__embedding_size": 16, "objective__name": "rtd"}


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
        (
            {**T5, "model__position": "learned", "model__relative_buckets": 8},
            ["model.relative_buckets = 8 has no effect", "'learned'"],
        ),
        (
            {**T5, "model__position": "relative", "model__relative_buckets": 3},
            ["model.relative_buckets = 3 is too few", "give at least 4"],
        ),
        (
            {**T5, "model__position": "relative", "model__relative_distance": 16},
            ["model.relative_distance = 16", "model.relative_buckets = 32", "give at least 17"],
        ),
        ({"model__relative_buckets": 8}, ["model.relative_buckets = 8 is not a setting", "'gpt', but of t5:"]),
        ({"model__position": "relative"}, ["model.position = 'relative' is T5's", "model.family = 'gpt'"]),
        ({"model__position": "none", "model__position_offset": 2}, ["model.position_offset = 2 has no effect"]),
        ({"model__family": "bert"}, ["model.family = 'bert'", "objective.name = 'causal'", "objective=mlm_nsp", "gpt"]),
        ({"objective__name": "mlm"}, ["model.family = 'gpt'", "objective=causal", "family bert, roberta"]),
        (
            {"model__segments": 2},
            ["model.segments = 2", "model.family = 'gpt', but of bert, roberta, electra: "],
        ),
        ({"model__decoder_layers": 2}, ["model.decoder_layers = 2", "model.family = 'gpt', but of t5, transformer: "]),
        ({"model__generator_hidden": 8}, ["model.generator_hidden = 8", "model.family = 'gpt', but of electra: "]),
        ({**T5, "model__window": 4}, ["model.window = 4 is not a setting of model.family = 't5', but of gpt, bert"]),
        ({"model__segmets": 2}, ["model.segmets = 2 is not a setting; did you mean model.segments?"]),
        ({"model__global_tokens": 1}, ["model.global_tokens = 1 has no effect with model.window = 0"]),
        ({**BERT, "model__pair_head": False}, ["model.pair_head = false", "'mlm_nsp'", "model.pair_head=null"]),
        ({**BERT, "objective__name": "mlm", "model__pair_head": True}, ["model.pair_head = true", "no pairs"]),
        ({"model__pair_head": True}, ["model.pair_head = true", "model.family = 'gpt', but of bert: "]),
        ({**BERT, "model__segments": 1}, ["model.segments = 1", "model.segments=2"]),
        ({**BERT, "model__embedding_size": 16}, ["model.embedding_size = 16", "model.hidden = 32", "electra"]),
        (
            {**ELECTRA, "model__position": "rotary", "model__generator_hidden": 12, "model__generator_heads": 4},
            ["model.position = 'rotary' turns pairs, but the generator's head size is 3, which is odd"],
        ),
        ({**ELECTRA, "model__generator_heads": 3}, ["model.generator_hidden = 8", "model.generator_heads = 3"]),
        (
            {
                **ELECTRA,
                "model__generator_ffn": 31,
                "parallel__tensor": 2,
                "model__generator_heads": 2,
                "world_size": 2,
            },
            ["model.generator_ffn = 31", "parallel.tensor = 2"],
        ),
        ({**ELECTRA, "parallel__pipeline": 2, "world_size": 2}, ["parallel.pipeline = 2", "model.family = 'electra'"]),
        (
            {"model__family": "t5", "objective__name": "span", "parallel__pipeline": 2, "world_size": 2},
            ["parallel.pipeline = 2", "model.family = 't5'", "parallel.pipeline=1"],
        ),
        (
            {"model__init_from": "hf", "train__init_from": "runs/other"},
            ["model.init_from and train.init_from are both set", "leave one out"],
        ),
        (
            {"model__family": "transformer", "objective__name": "span", "model__init_from": "hf"},
            ["model.init_from is set", "Hugging Face has no model of model.family = 'transformer'"],
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
        BERT,
        {**BERT, "objective__name": "mlm"},
        {**BERT, "model__segments": 0, "parallel__pipeline": 2, "world_size": 2},
        {"model__family": "roberta", "objective__name": "mlm", "model__position_offset": 2, "model__max_positions": 16},
        ELECTRA,
        {"model__family": "t5", "objective__name": "span", "model__position": "relative", "model__decoder_layers": 2},
        {**T5, "model__position": "relative", "model__relative_buckets": 4, "model__relative_distance": 3},
        {"model__window": 4, "model__global_tokens": 1},
    ],
)
def test_what_fits_passes(changes):
    assert problems(vocab_size=60, **changes) == []
