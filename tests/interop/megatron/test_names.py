import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.interop.megatron.names import Meaning, Sizes, logical_shapes, logical_tensors, meaning_of


def test_names_of_three_generations():
    assert meaning_of("embedding.word_embeddings.weight") == Meaning("embedding.word.weight", 0, "vocabulary")
    qkv = Meaning("layers.7.attention.{part}.weight", 0, "qkv")
    assert meaning_of("decoder.layers.7.self_attention.linear_qkv.weight") == qkv
    assert meaning_of("language_model.encoder.layers.7.self_attention.query_key_value.weight") == qkv
    assert meaning_of("module.language_model.transformer.layers.7.attention.query_key_value.weight") == qkv
    norm = Meaning("layers.0.mlp_norm.bias")
    assert meaning_of("decoder.layers.0.mlp.linear_fc1.layer_norm_bias") == norm
    assert meaning_of("decoder.layers.0.pre_mlp_layernorm.bias") == norm
    assert meaning_of("language_model.encoder.layers.0.post_attention_layernorm.bias") == norm
    assert meaning_of("decoder.layers.0.mlp.linear_fc2.weight") == Meaning("layers.0.mlp.down.weight", 1)
    assert meaning_of("decoder.layers.0.mlp.linear_fc2.bias") == Meaning("layers.0.mlp.down.bias", None)


def test_other_names_are_not_known():
    for name in ("lm_head.weight", "decoder.layers.0.mlp.router.weight", "decoder.layers.x.mlp.linear_fc2.bias", ""):
        assert meaning_of(name) is None


@given(st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_queries_keys_and_values_are_taken_apart_by_group(ranks, groups_a_rank, heads_a_group, size):
    """Every row is labelled with what it is, fused as Megatron-core fuses, and must come back in order."""
    groups, heads = groups_a_rank * ranks, groups_a_rank * ranks * heads_a_group
    query = torch.arange(heads * size).view(groups, heads_a_group * size)
    key = 1000 + torch.arange(groups * size).view(groups, size)
    value = 2000 + torch.arange(groups * size).view(groups, size)
    fused = torch.cat([query, key, value], dim=1).flatten()
    meaning, sizes = Meaning("{part}.bias", 0, "qkv"), Sizes(groups, 1)
    held = fused.chunk(ranks)
    shapes = logical_shapes(meaning, held[0].shape, sizes, ranks=ranks, gated=False, head_rows=heads * size)
    assert shapes == {"query.bias": (heads * size,), "key.bias": (groups * size,), "value.bias": (groups * size,)}
    found = logical_tensors(meaning, held, shapes, sizes)
    assert torch.equal(found["query.bias"], query.flatten())
    assert torch.equal(found["key.bias"], key.flatten())
    assert torch.equal(found["value.bias"], value.flatten())


@given(st.sampled_from([1, 2, 4]), st.integers(1, 3), st.booleans())
def test_gates_are_taken_apart_on_each_rank(ranks, rows, gated):
    gate, up = torch.randn(2, ranks * rows, 3)
    fused = [torch.cat(pair) for pair in zip(gate.chunk(ranks), up.chunk(ranks), strict=True)]
    held = fused if gated else list(up.chunk(ranks))
    meaning, sizes = Meaning("{part}.weight", 0, "gated"), Sizes(1, 1)
    shapes = logical_shapes(meaning, held[0].shape, sizes, ranks=ranks, gated=gated, head_rows=0)
    found = logical_tensors(meaning, held, shapes, sizes)
    assert torch.equal(found["up.weight"], up)
    assert ("gate.weight" in found) == gated
    assert not gated or torch.equal(found["gate.weight"], gate)


def test_rows_are_joined_along_their_inputs_and_padding_goes():
    whole = torch.randn(3, 8)
    meaning, sizes = Meaning("down.weight", 1), Sizes(1, 10)
    shapes = logical_shapes(meaning, (3, 4), sizes, ranks=2, gated=False, head_rows=0)
    assert shapes == {"down.weight": (3, 8)}
    assert torch.equal(logical_tensors(meaning, whole.chunk(2, dim=1), shapes, sizes)["down.weight"], whole)
    words = torch.randn(12, 3)
    meaning = Meaning("word.weight", 0, "vocabulary")
    shapes = logical_shapes(meaning, (6, 3), sizes, ranks=2, gated=False, head_rows=0)
    assert shapes == {"word.weight": (10, 3)}
    assert torch.equal(logical_tensors(meaning, words.chunk(2), shapes, sizes)["word.weight"], words[:10])
