import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.spec.derived import (
    derive,
    num_microbatches,
    padded_vocab_size,
    peak_learning_rate,
)
from dist_plm.spec.families.electra import generator_of
from tests.spec.make import pretrain

counts = st.integers(1, 1000)


@given(counts, counts, st.integers(1, 16))
def test_padded_vocabulary_is_the_smallest_that_holds_all_and_splits(vocab_size, multiple, tensor):
    padded = padded_vocab_size(vocab_size, multiple, tensor)
    assert padded % (multiple * tensor) == 0
    assert 0 <= padded - vocab_size < multiple * tensor


def test_sizes_are_derived_from_their_sources():
    config = derive(pretrain(), world_size=6, vocab_size=100)
    model = config.model
    assert (model.kv_heads, model.head_size, model.ffn, model.vocab_size, model.max_positions) == (4, 8, 128, 100, 16)
    assert config.run.dir == "runs/test"
    assert config.parallel.data == 6
    assert derive(pretrain(parallel__tensor=2), world_size=6, vocab_size=None).parallel.data == 3


def test_what_is_given_stays():
    given_sizes = {"kv_heads": 2, "head_size": 6, "ffn": 7, "vocab_size": 50, "max_positions": 99}
    config = pretrain(
        **{f"model__{name}": size for name, size in given_sizes.items()}, run__dir="/elsewhere", parallel__data=1
    )
    assert derive(config, world_size=4, vocab_size=100) == config


@pytest.mark.parametrize(("hidden", "ffn"), [(4096, 11008), (5120, 13824), (8192, 22016), (192, 512)])
def test_swiglu_gets_llamas_sizes(hidden, ffn):
    config = derive(pretrain(model__activation="swiglu", model__hidden=hidden), world_size=1, vocab_size=None)
    assert config.model.ffn == ffn


def test_microbatches():
    given = pretrain()
    config = derive(given, world_size=2, vocab_size=None)
    assert num_microbatches(config.train, config.parallel) == 2
    with pytest.raises(AssertionError, match="finalize"):
        num_microbatches(given.train, given.parallel)


@pytest.mark.parametrize(("given_warmup", "steps"), [({}, 0), ({"warmup_steps": 3}, 3), ({"warmup_ratio": 0.25}, 2)])
def test_warmup_steps(given_warmup, steps):
    config = pretrain(**{f"schedule__{k}": v for k, v in given_warmup.items()})
    assert config.schedule.num_warmup_steps(10) == steps


def test_encoders_derive_their_own():
    bert = derive(pretrain(model__family="bert", objective__name="mlm_nsp"), world_size=1, vocab_size=100).model
    assert (bert.embedding_size, bert.pair_head, hasattr(bert, "decoder_layers")) == (32, True, False)
    assert (
        derive(pretrain(model__family="bert", objective__name="mlm"), world_size=1, vocab_size=9).model.pair_head
        is False
    )
    roberta = pretrain(model__family="roberta", model__position_offset=2, objective__name="mlm")
    assert derive(roberta, world_size=1, vocab_size=100).model.max_positions == 16


def test_a_generator_is_a_quarter_of_the_discriminator():
    model = derive(pretrain(model__family="electra", objective__name="rtd"), world_size=1, vocab_size=100).model
    generator = generator_of(model)
    assert (generator.hidden, generator.heads, generator.head_size) == (8, 1, 8)
    assert (generator.ffn, generator.layers, generator.embedding_size) == (32, 4, 32)


def test_a_decoder_is_as_deep_as_the_encoder():
    t5 = pretrain(model__family="t5", model__position="relative", objective__name="span")
    assert derive(t5, world_size=1, vocab_size=100).model.decoder_layers == 4


@pytest.mark.parametrize(
    ("family", "position", "objective", "expected"),
    [
        ("transformer", "sinusoidal", {"objective__name": "span"}, 16),
        ("transformer", "learned", {"objective__name": "span", "objective__mask_rate": 0.5}, 17),
        ("transformer", "rotary", {"objective__name": "span", "objective__mask_rate": 0.5}, 16),
        ("gpt", "learned", {"objective__name": "ul2"}, 16),
        ("transformer", "learned", {"objective__name": "ul2", "objective__denoisers": []}, 16),
    ],
)
def test_places_are_as_many_as_the_longer_side_has(family, position, objective, expected):
    config = pretrain(model__family=family, model__position=position, **objective)
    assert derive(config, world_size=1, vocab_size=100).model.max_positions == expected


@pytest.mark.parametrize(
    ("scaling", "batch", "expected"),
    [("sqrt", 16, 2e-3), ("linear", 16, 4e-3), ("sqrt", 4, 1e-3), ("linear", 1, 2.5e-4)],
)
def test_the_peak_is_scaled_with_the_batch(scaling, batch, expected):
    optim = pretrain(optim__lr=1e-3, optim__lr_batch=4, optim__lr_scaling=scaling).optim
    assert peak_learning_rate(optim, batch) == pytest.approx(expected)


def test_without_its_batch_the_peak_stands():
    assert peak_learning_rate(pretrain(optim__lr=1e-3).optim, 64) == 1e-3


def test_nvlamb_clips_at_one():
    lamb = pretrain(optim__name="lamb", optim__pre_normalize=True, optim__clip_norm=0.0).optim
    assert lamb.clip_threshold == 1.0
    assert pretrain(optim__clip_norm=0.3).optim.clip_threshold == 0.3
