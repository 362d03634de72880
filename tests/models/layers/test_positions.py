import torch
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from dist_plm.models.layers.positions import rotary_tables, rotate, sinusoidal_table


def test_rotation_equals_hugging_face_llama():
    positions = torch.randint(0, 500, (2, 16))
    query, key = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 16, 8)
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, rope_theta=500.0)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 500.0}
    cos, sin = LlamaRotaryEmbedding(config)(query, positions)
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    tables = rotary_tables(positions, 8, 500.0)
    torch.testing.assert_close(rotate(query, tables), expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotate(key, tables), expected[1], rtol=1e-4, atol=1e-4)


def test_rotated_products_depend_on_distance_alone():
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(i, j):
        at = [rotary_tables(torch.tensor([[p]]), 8, 10000.0) for p in (i, j)]
        return (rotate(query, at[0]) * rotate(key, at[1])).sum()

    torch.testing.assert_close(product(3, 1), product(10, 8), rtol=1e-4, atol=1e-5)


def test_sinusoids_are_those_of_the_paper():
    table = sinusoidal_table(50, 6)
    position, i = 7, 2
    angle = torch.tensor(position / 10000 ** (2 * i / 6))
    torch.testing.assert_close(table[position, 2 * i : 2 * i + 2], torch.stack([angle.sin(), angle.cos()]))
    assert sinusoidal_table(4, 5).shape == (4, 5)
