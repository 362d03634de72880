import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.checkpoint.train_state import FileRecord, TrainState, decode, encode
from dist_plm.core.errors import CheckpointError

TRAIN_STATE = TrainState(
    step=7,
    samples_seen=56,
    engine={"optimizer_steps": 6, "loss_scale": 1024.0},
    stream={"data": "ab" * 32, "objective.name": "causal"},
    history=[{"step": 3, "changes": ["train.seed: 1 -> 2"]}],
    evaluation={"loss": 2.5},
    loop={"evaluation_due": True},
    files={"__0_0.distcp": FileRecord(123, "0" * 32), "run.yaml": FileRecord(4, "f" * 32)},
)


def test_comes_back_as_it_was():
    assert decode(encode(TRAIN_STATE), "x") == TRAIN_STATE


@given(st.integers(0, len(encode(TRAIN_STATE)) - 1), st.integers(0, 7))
def test_any_flipped_bit_is_seen(place, bit):
    damaged = bytearray(encode(TRAIN_STATE))
    damaged[place] ^= 1 << bit
    with pytest.raises(CheckpointError, match="somewhere"):
        decode(bytes(damaged), "somewhere")


@given(st.integers(0, len(encode(TRAIN_STATE)) - 1))
def test_any_truncation_is_seen(length):
    with pytest.raises(CheckpointError, match="somewhere"):
        decode(encode(TRAIN_STATE)[:length], "somewhere")
