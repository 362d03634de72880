"""What a step costs follows from what its objective predicts; and which of them were skipped is told."""

from unittest.mock import Mock

import pytest

from dist_plm.engines.base import StepResult
from dist_plm.monitor.metrics_file import MetricsWriter, read_metrics
from dist_plm.spec.flops import flops_per_step, step_flops
from dist_plm.spec.rules.finalize import finalize
from dist_plm.train.metrics_logger import MetricsLogger, SampleSize, sample_size
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


def test_gradients_that_frozen_weights_do_not_have_do_not_count():
    """Those of the weights, and below the head all that a backward pass would be."""
    config = config_of("gpt", "causal", model__tied_embeddings=False)
    whole, part, head = (
        sample_size(config.model, config.objective, 512, config.train.global_batch, None, freeze).flops
        for freeze in ((), ("layers.0",), ("embeddings", "layers"))
    )
    assert whole == flops_of(config) / config.train.global_batch
    assert head < part < whole
    assert head < whole / 2


def test_the_share_of_skipped_steps_is_of_those_since_the_record_before(tmp_path):
    size = SampleSize(tokens=8, flops=1.0, peak_tflops=None)
    metrics = MetricsWriter(tmp_path / "metrics.jsonl")
    metrics_logger = MetricsLogger(
        size=size, metrics=metrics, progress=Mock(), tracker=Mock(), log_every=4, micro_batch=2
    )
    for step in range(1, 13):
        norm = None if step in (2, 6, 7, 8) else 1.0
        result = StepResult(loss=3.0, terms={}, num_tokens=1, grad_norm=norm, loss_scale=1.0, skipped=norm is None)
        metrics_logger.begin_step()
        metrics_logger.end_step(step, result, 1e-3, batch=2, samples_seen=2 * step)
        if step == 7:  # started again in between
            metrics_logger.load_state(metrics_logger.state())
        metrics_logger.flush(force=False)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [(one["skipped"], one["skipped_share"]) for one in records] == [(1, 0.25), (3, 0.75), (0, 0.0)]


def test_tokens_that_were_seen_do_not_become_more_when_samples_become_longer(tmp_path):
    """A run goes on with data.sequence_length twice as long."""
    state = {}
    for length, steps in ((8, range(1, 4)), (16, range(4, 6))):
        metrics = MetricsWriter(tmp_path / "metrics.jsonl", resume_step=steps[0] - 1)
        size = SampleSize(tokens=length, flops=1.0, peak_tflops=None)
        metrics_logger = MetricsLogger(
            size=size, metrics=metrics, progress=Mock(), tracker=Mock(), log_every=1, micro_batch=2
        )
        if state:
            metrics_logger.load_state(state)
        for step in steps:
            result = StepResult(loss=3.0, terms={}, num_tokens=1, grad_norm=1.0, loss_scale=1.0, skipped=False)
            metrics_logger.begin_step()
            metrics_logger.end_step(step, result, 1e-3, batch=2, samples_seen=2 * step)
            metrics_logger.flush(force=False)
        state = metrics_logger.state()
    assert [one["tokens_seen"] for one in read_metrics(tmp_path / "metrics.jsonl")] == [16, 32, 48, 80, 112]
