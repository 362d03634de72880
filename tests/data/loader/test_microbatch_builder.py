import numpy as np
import pytest

from dist_plm.data.loader.microbatch_builder import microbatches

ROW = 1000  # a row of arrays has so many bytes


class Numbers:
    """Samples that are their own numbers; remembers how many were read at once."""

    def __init__(self, refused: int | None = None) -> None:
        self.refused, self.reads = refused, []

    def read(self, samples):
        self.reads.append(len(samples))
        if self.refused in samples:
            raise ValueError(f"{self.refused} is refused")
        return samples


def rows(samples):
    return {"samples": samples, "wide": np.repeat(samples[:, None], (ROW - 8) // 8, axis=1)}


def plan(sizes):
    stops = np.cumsum(sizes)
    return [np.arange(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]


def test_every_microbatch_comes_in_order_with_the_rows_of_its_samples():
    wanted = plan([3] * 500 + [5] * 500)
    data = Numbers()
    found = list(microbatches(data, rows, wanted))
    assert [batch["samples"].tolist() for batch in found] == [samples.tolist() for samples in wanted]
    assert all((batch["wide"] == batch["samples"][:, None]).all() for batch in found)
    assert data.reads[0] == 3  # the first without delay
    assert 300 < max(data.reads) * ROW / 1000 < 2200  # later ones about a megabyte at a time
    assert sum(data.reads) == 4000


def test_samples_of_several_rows_stay_together():
    def threefold(samples):
        return {"samples": samples, "rows": np.repeat(samples, 3) * 3 + np.tile(np.arange(3), len(samples))}

    found = list(microbatches(Numbers(), threefold, plan([2] * 5)))
    assert [batch["rows"].tolist() for batch in found] == [list(range(6 * i, 6 * i + 6)) for i in range(5)]


def test_large_microbatches_are_made_one_by_one():
    data = Numbers()
    assert len(list(microbatches(data, rows, plan([3000] * 4)))) == 4
    assert data.reads == [3000] * 4


def test_those_before_one_that_fails_still_come():
    batches = microbatches(Numbers(refused=100), rows, plan([7] * 50))
    assert [next(batches)["samples"][0] for _ in range(14)] == list(range(0, 98, 7))
    with pytest.raises(ValueError, match="100 is refused"):
        next(batches)
