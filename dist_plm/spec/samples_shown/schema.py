"""Every setting of launch/samples.py, as frozen dataclasses; see spec/schema.py."""

from dataclasses import dataclass

from dist_plm.config.types import Count, Natural


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesShownConfig:
    """Says which samples are shown: of the run in the directory `run` those that update number `step` learned from, or those
    with the numbers `samples`, from the first to before the second; `limit` of them at most, from the first on."""

    run: str | None = None
    step: Count | None = None
    samples: tuple[Natural, Natural] | None = None
    limit: Count = 8
