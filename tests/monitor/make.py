"""Records for tests."""

from dist_plm.monitor.metrics_file import StepRecord


def record(step: int, **changes) -> StepRecord:
    """A plausible record whose loss is 10 / step."""
    values = {
        "step": step,
        "loss": 10.0 / step if step else 10.0,
        "lr": 1e-3,
        "grad_norm": 1.5,
        "tokens_seen": 512 * step,
        "samples_seen": 4 * step,
        "tokens_per_second": 2048.0,
        "step_seconds": 0.25,
        "mfu": 0.4,
        "loss_scale": None,
        "skipped": 0,
    }
    return StepRecord(**(values | changes))
