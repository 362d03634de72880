"""Records for tests."""

import math
import random
from typing import Any

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


def course(num_steps: int) -> list[dict[str, Any]]:
    """Records of a long run, as noisy as real ones."""
    draw = random.Random(0)
    return [
        record(
            step,
            loss=2.5 + 7 * math.exp(-step / 9000) + 0.08 * draw.gauss(0, 1),
            lr=3e-4 * (1 + math.cos(step / 1e5)),
            grad_norm=abs(draw.gauss(0.8, 0.3)),
            tokens_seen=524_288 * step,
            tokens_per_second=draw.gauss(2e6, 5e4),
            step_seconds=draw.gauss(0.25, 0.01),
            mfu=draw.gauss(0.45, 0.01),
            memory_gib=61.37,
        ).as_dict()
        for step in range(1, num_steps + 1)
    ]


def todays_course(num_steps: int, num_layers: int = 24) -> list[dict[str, Any]]:
    """The same with all that a run looks at: at each step the worst microbatch; every 100 steps the parts of a step and sizes
    by layer, every 250 held-out measures; and once a rank that is slow."""
    draw, records = random.Random(1), course(num_steps)
    parts, layers = ("data", "forward", "backward", "communication", "optimizer"), range(num_layers)
    for one in records:
        first = 8 * draw.randrange(10**9)
        one |= {"worst/loss": one["loss"] + draw.random(), "worst/first_sample": first, "worst/last_sample": first + 7}
        if one["step"] % 100 == 0:
            one |= {f"step_parts/{name}": draw.uniform(0.01, 0.1) for name in parts}
            one |= {f"activation/layers.{layer}": draw.gauss(1.2, 0.1) for layer in layers}
            one |= {f"update_ratio/layers.{layer}": draw.uniform(1e-4, 2e-3) for layer in layers}
        if one["step"] % 250 == 0:
            one |= {"eval/loss": one["loss"] + 0.05, "eval/perplexity": math.exp(one["loss"] + 0.05)}
    records[num_steps // 2] |= {"slow/rank": 3, "slow/ratio": 1.3}
    return records
