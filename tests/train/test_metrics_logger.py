"""What a step costs follows from what its objective predicts."""

import pytest

from dist_plm.spec.flops import flops_per_step
from dist_plm.spec.rules.finalize import finalize
from dist_plm.train.metrics_logger import step_flops
from tests.train.running import settings


def config_of(family, objective, length=512, **changes):
    model = {"model__family": family, **changes}
    config = settings("unused", "unused", objective__name=objective, data__sequence_length=length, **model)
    return finalize(config, world_size=1, vocab_size=97)


def flops_of(config):
    return step_flops(config.model, config.objective, config.data.sequence_length, config.train.global_batch)


def test_the_decoder_of_span_corruption_writes_what_was_published():
    """512 tokens are read and 114 written at 15 % in spans of 3 (Raffel et al. 2020, `random_spans_helper`)."""
    config = config_of("t5", "span", model__position="relative")
    assert flops_of(config) == flops_per_step(config.model, 512, config.train.global_batch, target_length=114)


@pytest.mark.parametrize(("family", "objective"), [("bert", "mlm"), ("electra", "rtd")])
def test_masked_models_predict_the_masked_tokens_alone(family, objective):
    few = flops_of(config_of(family, objective, objective__mask_rate=0.15))
    many = flops_of(config_of(family, objective, objective__mask_rate=0.3))
    assert few < many < flops_of(config_of(family, objective, objective__mask_rate=0.99))
