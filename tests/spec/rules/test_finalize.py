import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.finalize import check_prepare, finalize, num_microbatches
from tests.spec.make import prepare, pretrain

small = st.sampled_from([1, 2, 3, 4, 6, 8])


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "parallel__tensor": small,
            "parallel__pipeline": small,
            "parallel__virtual_pipeline": st.sampled_from([1, 2]),
            "parallel__sequence_parallel": st.booleans(),
            "model__layers": small,
            "model__heads": small,
            "model__hidden": st.sampled_from([24, 48, 60]),
            "train__global_batch": st.sampled_from([8, 12, 24, 48]),
        }
    ),
    st.integers(1, 48),
    st.sampled_from([None, 100]),
)
def test_what_passes_divides_and_stays_as_it_is(changes, world_size, vocab_size):
    try:
        config = finalize(pretrain(**changes), world_size=world_size, vocab_size=vocab_size)
    except ConfigError:
        return
    parallel, model, train = config.parallel, config.model, config.train
    assert parallel.data is not None
    assert parallel.data * parallel.tensor * parallel.pipeline == world_size
    assert model.heads % parallel.tensor == 0
    assert model.layers % (parallel.pipeline * parallel.virtual_pipeline) == 0
    assert num_microbatches(config.train, config.parallel) * train.micro_batch * parallel.data == train.global_batch
    assert parallel.tensor > 1 or not parallel.sequence_parallel
    assert finalize(config, world_size=world_size, vocab_size=vocab_size) == config


def test_problems_of_all_rules_come_together():
    config = pretrain(model__hidden=33, train__stop_at=99, parallel__context=8, objective__reset_positions=True)
    with pytest.raises(ConfigError) as caught:
        finalize(config, world_size=2, vocab_size=None)
    text = str(caught.value)
    for key in ("model.hidden = 33", "train.stop_at = 99", "parallel.context = 8", "objective.reset_positions = true"):
        assert key in text


def test_a_vocabulary_that_is_not_known_yet_may_come_later():
    early = finalize(pretrain(), world_size=1, vocab_size=None)
    assert early.model.vocab_size is None
    assert finalize(early, world_size=1, vocab_size=77).model.vocab_size == 77


def test_check_prepare_returns_what_it_accepts():
    assert check_prepare(prepare()) == prepare()
    with pytest.raises(ConfigError, match="2 problems"):
        check_prepare(prepare(data__sources=[], tokenizer__vocab_size=3))
